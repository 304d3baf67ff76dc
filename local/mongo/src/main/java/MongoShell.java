import com.mongodb.ConnectionString;
import com.mongodb.MongoClientSettings;
import com.mongodb.MongoCommandException;
import com.mongodb.MongoCredential;
import com.mongodb.MongoException;
import com.mongodb.client.MongoClient;
import com.mongodb.client.MongoClients;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import org.bson.Document;
import org.mozilla.javascript.Context;
import org.mozilla.javascript.LambdaFunction;
import org.mozilla.javascript.RhinoException;
import org.mozilla.javascript.ScriptRuntime;
import org.mozilla.javascript.Scriptable;
import org.mozilla.javascript.ScriptableObject;

/**
 * As much of mongosh as runs a script that keeps the users of a server:
 * `mongosh [--norc] [--quiet] --file FILE ADDRESS`. The script signs in: what a command is given, others can read.
 *
 * The language is Rhino's, which knows no `const` in the head of a loop; the driver is MongoDB's own.
 */
public class MongoShell {
    private static final Set<String> SWITCHES = Set.of("--norc", "--quiet");

    /** The methods of mongosh, as commands of the server. */
    private static final String METHODS = """
        function database(name) {
            const run = command => JSON.parse(runCommand(name, JSON.stringify(command)));
            return {
                getSiblingDB: database,
                auth: (user, password) => {
                    signIn(name, user, password);
                    return run({ping: 1});
                },
                getUser: user => run({usersInfo: {user: user, db: name}}).users[0] || null,
                getUsers: () => run({usersInfo: 1}),
                // The first key of a command is its name.
                createUser: given => run(Object.assign({createUser: given.user}, given, {user: undefined})),
                updateUser: (user, given) => run(Object.assign({updateUser: user}, given)),
                dropUser: user => run({dropUser: user}),
            };
        }
        """;

    private final ConnectionString server;
    private MongoClient client;

    private MongoShell(ConnectionString server) {
        this.server = server;
        this.client = MongoClients.create(server);
    }

    public static void main(String[] words) throws IOException {
        Map<String, String> options = new HashMap<>();
        String address = null;
        for (int place = 0; place < words.length; place++) {
            if (words[place].startsWith("--") && !SWITCHES.contains(words[place])) {
                options.put(words[place], words[++place]);
            } else {
                address = words[place];
            }
        }
        String script = Files.readString(Path.of(options.get("--file")));
        MongoShell shell = new MongoShell(new ConnectionString(address));
        try {
            shell.run(script);
        } catch (MongoCommandException refused) {
            // Not the whole of it: the answer of the server, but not the command, which may hold a password.
            end("MongoServerError: " + refused.getErrorMessage());
        } catch (MongoException | RhinoException failed) {
            end(failed.toString());
        } finally {
            shell.client.close();
        }
    }

    private static void end(String sentence) {
        System.err.println(sentence);
        System.exit(1);
    }

    private void signIn(String database, String user, String password) {
        client.close();
        client = MongoClients.create(MongoClientSettings.builder()
            .applyConnectionString(server)
            .credential(MongoCredential.createCredential(user, database, password.toCharArray()))
            .build());
    }

    private void run(String script) {
        try (Context context = Context.enter()) {
            context.setLanguageVersion(Context.VERSION_ES6);
            context.setInterpretedMode(true);  // it runs once, and is not worth compiling
            Scriptable scope = context.initStandardObjects();
            ScriptableObject.putProperty(scope, "runCommand", new LambdaFunction(scope, "runCommand", 2,
                (in, where, self, given) -> client.getDatabase(ScriptRuntime.toString(given[0]))
                    .runCommand(Document.parse(ScriptRuntime.toString(given[1])))
                    .toJson()));
            ScriptableObject.putProperty(scope, "signIn", new LambdaFunction(scope, "signIn", 3,
                (in, where, self, given) -> {
                    signIn(ScriptRuntime.toString(given[0]), ScriptRuntime.toString(given[1]),
                        ScriptRuntime.toString(given[2]));
                    return null;
                }));
            Scriptable process = context.newObject(scope), environment = context.newObject(scope);
            System.getenv().forEach((name, value) -> ScriptableObject.putProperty(environment, name, value));
            ScriptableObject.putProperty(process, "env", environment);
            ScriptableObject.putProperty(scope, "process", process);
            context.evaluateString(scope, METHODS, "mongosh", 1, null);
            context.evaluateString(scope, "const db = database('" + server.getDatabase() + "');", "mongosh", 1, null);
            context.evaluateString(scope, script, "script", 1, null);
        }
    }
}
