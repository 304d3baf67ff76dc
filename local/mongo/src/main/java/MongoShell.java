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
 * `mongosh [--norc] [--quiet] [--username ... --password ... --authenticationDatabase ...] --file FILE ADDRESS`.
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
                getUser: user => run({usersInfo: {user: user, db: name}}).users[0] || null,
                getUsers: () => run({usersInfo: 1}),
                // The first key of a command is its name.
                createUser: given => run(Object.assign({createUser: given.user}, given, {user: undefined})),
                updateUser: (user, given) => run(Object.assign({updateUser: user}, given)),
                dropUser: user => run({dropUser: user}),
            };
        }
        """;

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
        ConnectionString server = new ConnectionString(address);
        MongoClientSettings.Builder settings = MongoClientSettings.builder().applyConnectionString(server);
        if (options.containsKey("--username")) {
            settings.credential(MongoCredential.createCredential(
                options.get("--username"),
                options.getOrDefault("--authenticationDatabase", "admin"),
                options.get("--password").toCharArray()));
        }
        String script = Files.readString(Path.of(options.get("--file")));
        try (MongoClient client = MongoClients.create(settings.build())) {
            run(script, server.getDatabase(), client);
        } catch (MongoCommandException refused) {
            // Not the whole of it: the answer of the server, but not the command, which may hold a password.
            end("MongoServerError: " + refused.getErrorMessage());
        } catch (MongoException | RhinoException failed) {
            end(failed.toString());
        }
    }

    private static void end(String sentence) {
        System.err.println(sentence);
        System.exit(1);
    }

    private static void run(String script, String database, MongoClient client) {
        try (Context context = Context.enter()) {
            context.setLanguageVersion(Context.VERSION_ES6);
            context.setInterpretedMode(true);  // it runs once, and is not worth compiling
            Scriptable scope = context.initStandardObjects();
            ScriptableObject.putProperty(scope, "runCommand", new LambdaFunction(scope, "runCommand", 2,
                (in, where, self, given) -> client.getDatabase(ScriptRuntime.toString(given[0]))
                    .runCommand(Document.parse(ScriptRuntime.toString(given[1])))
                    .toJson()));
            Scriptable process = context.newObject(scope), environment = context.newObject(scope);
            System.getenv().forEach((name, value) -> ScriptableObject.putProperty(environment, name, value));
            ScriptableObject.putProperty(process, "env", environment);
            ScriptableObject.putProperty(scope, "process", process);
            context.evaluateString(scope, METHODS, "mongosh", 1, null);
            context.evaluateString(scope, "const db = database('" + database + "');", "mongosh", 1, null);
            context.evaluateString(scope, script, "script", 1, null);
        }
    }
}
