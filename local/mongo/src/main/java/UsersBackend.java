import de.bwaldvogel.mongo.backend.QueryResult;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.BinData;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.exception.MongoServerError;
import de.bwaldvogel.mongo.wire.message.MongoQuery;
import io.netty.channel.Channel;
import io.netty.util.AttributeKey;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Base64;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import javax.crypto.Mac;
import javax.crypto.SecretKeyFactory;
import javax.crypto.spec.PBEKeySpec;
import javax.crypto.spec.SecretKeySpec;
import org.h2.mvstore.MVMap;
import org.h2.mvstore.MVStore;

/**
 * A backend with users, kept in its file. Who has not signed in (SCRAM-SHA-256: RFC 5802, RFC 7677) may do nothing else;
 * then the role `readWrite` of a database lets a user work within it, and `root` do everything.
 *
 * What is refused is answered, not thrown: the library writes the message that made it throw, with a password perhaps,
 * into its log.
 */
class UsersBackend extends H2Backend {
    private static final String ADMIN = "admin";
    private static final String MECHANISM = "SCRAM-SHA-256";
    private static final int ITERATIONS = 15000;
    private static final Set<String> OF_EVERYBODY = Set.of("ping", "buildinfo", "endsessions", "connectionstatus");
    private static final Set<String> OF_A_DATABASE = Set.of("getmore", "killcursors");

    private static final AttributeKey<String> USER = AttributeKey.valueOf("user");
    private static final AttributeKey<Conversation> CONVERSATION = AttributeKey.valueOf("conversation");

    /** What was said when the client began to sign in. */
    private record Conversation(String user, String nonce, String said) {}

    private final SecureRandom random = new SecureRandom();
    private final MVMap<String, Document> users;

    /** Makes the root user when there is no user yet, as MongoDB's image does. */
    UsersBackend(MVStore file, String root, String password) {
        super(file);
        users = file.openMap("users");
        if (users.isEmpty()) {
            Document role = new Document("role", "root").append("db", ADMIN);
            users.put(root, new Document("roles", List.of(role)).append("credentials", credentials(password)));
        }
    }

    @Override
    public Document handleCommand(Channel channel, String database, String command, Document query) {
        String name = command.toLowerCase();
        switch (name) {
            case "hello", "ismaster":
                Document greeting = super.handleCommand(channel, database, "ismaster", query);
                greeting.append("isWritablePrimary", true);
                if (query.containsKey("saslSupportedMechs")) {
                    greeting.append("saslSupportedMechs", List.of(MECHANISM));
                }
                return greeting;
            case "saslstart":
                return startSigningIn(channel, database, query);
            case "saslcontinue":
                return finishSigningIn(channel, query);
        }
        String signedIn = channel.attr(USER).get();
        Document user = signedIn == null ? null : users.get(signedIn);  // it may have been dropped since
        if (user == null) {
            return refusal(13, "Unauthorized", "command " + command + " requires authentication");
        }
        if (has(user, "root", ADMIN)) {
            return switch (name) {
                case "createuser" -> createUser(database, (String) query.get(command), query);
                case "updateuser" -> updateUser(database, (String) query.get(command), query);
                case "dropuser" -> dropUser(database, (String) query.get(command));
                case "usersinfo" -> usersInfo(query.get(command));
                default -> super.handleCommand(channel, database, command, query);
            };
        }
        boolean own = !database.equals(ADMIN) && has(user, "readWrite", database);
        if (OF_EVERYBODY.contains(name) || own && OF_A_DATABASE.contains(name)) {
            return super.handleCommand(channel, database, command, query);
        }
        if (!own || name.equals("dropdatabase")) {
            return refusal(13, "Unauthorized", "not authorized on " + database + " to execute command " + command);
        }
        return resolveDatabase(database).handleCommand(channel, command, query, other -> {
            if (!other.equals(database)) {
                throw new MongoServerError(13, "Unauthorized", "not authorized on " + other);
            }
            return resolveDatabase(other);
        }, oplog);
    }

    // Three ways past handleCommand, of protocols that no driver speaks any more.

    @Override
    public QueryResult handleQuery(MongoQuery query) {
        throw new MongoServerError(13, "Unauthorized", "OP_QUERY is for commands only");
    }

    @Override
    public Document getServerStatus() {
        throw new MongoServerError(13, "Unauthorized", "serverStatus is not told");
    }

    @Override
    public Collection<Document> getCurrentOperations(MongoQuery query) {
        throw new MongoServerError(13, "Unauthorized", "$cmd.sys.inprog is not told");
    }

    // --- signing in --------------------------------------------------------------------------------------------------

    private Document startSigningIn(Channel channel, String database, Document query) {
        channel.attr(USER).set(null);
        String first = text(query.get("payload"));
        String user = attribute(first, "n");
        Document known = user == null ? null : users.get(user.replace("=2C", ",").replace("=3D", "="));
        // "n,,": no channel binding, and no other identity than the user's.
        if (!MECHANISM.equals(query.get("mechanism")) || !ADMIN.equals(database) || !first.startsWith("n,,")
                || attribute(first, "r") == null || known == null) {
            return failure();
        }
        Document credentials = (Document) known.get("credentials");
        String nonce = attribute(first, "r") + base64(random(24));
        String answer = "r=" + nonce + ",s=" + credentials.get("salt") + ",i=" + ITERATIONS;
        String name = user.replace("=2C", ",").replace("=3D", "=");
        channel.attr(CONVERSATION).set(new Conversation(name, nonce, first.substring(3) + "," + answer));
        return step(answer, false);
    }

    private Document finishSigningIn(Channel channel, Document query) {
        Conversation conversation = channel.attr(CONVERSATION).getAndSet(null);
        Document known = conversation == null ? null : users.get(conversation.user());
        String last = text(query.get("payload"));
        int end = last.lastIndexOf(",p=");
        if (known == null || end < 0 || !last.startsWith("c=biws,") || !conversation.nonce().equals(attribute(last, "r"))) {
            return failure();
        }
        Document credentials = (Document) known.get("credentials");
        String all = conversation.said() + "," + last.substring(0, end);
        byte[] storedKey = bytes(credentials, "storedKey");
        byte[] clientKey = xor(decoded(last.substring(end + 3)), hmac(storedKey, all));
        if (clientKey == null || !MessageDigest.isEqual(sha256(clientKey), storedKey)) {
            return failure();
        }
        channel.attr(USER).set(conversation.user());
        return step("v=" + base64(hmac(bytes(credentials, "serverKey"), all)), true);
    }

    private static Document step(String payload, boolean done) {
        return new Document("conversationId", 1)
            .append("done", done)
            .append("payload", new BinData(payload.getBytes(StandardCharsets.UTF_8)))
            .append("ok", 1.0);
    }

    private static Document failure() {
        return refusal(18, "AuthenticationFailed", "Authentication failed.");
    }

    private Document credentials(String password) {
        byte[] salt = random(28);
        byte[] salted;
        try {
            PBEKeySpec spec = new PBEKeySpec(password.toCharArray(), salt, ITERATIONS, 256);
            salted = SecretKeyFactory.getInstance("PBKDF2WithHmacSHA256").generateSecret(spec).getEncoded();
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
        return new Document("salt", base64(salt))
            .append("storedKey", base64(sha256(hmac(salted, "Client Key"))))
            .append("serverKey", base64(hmac(salted, "Server Key")));
    }

    // --- users -------------------------------------------------------------------------------------------------------

    private Document createUser(String database, String name, Document query) {
        if (users.containsKey(name)) {
            return refusal(51003, "Location51003", "User \"" + name + "@admin\" already exists");
        }
        if (!(query.containsKey("pwd") && query.containsKey("roles"))) {
            return refusal(2, "BadValue", "a user needs pwd and roles");
        }
        return put(database, name, new Document(), query);
    }

    private Document updateUser(String database, String name, Document query) {
        Document known = users.get(name);
        return known == null ? unknown(name) : put(database, name, known, query);
    }

    private Document put(String database, String name, Document known, Document query) {
        Object password = query.get("pwd");
        List<?> roles = (List<?>) query.getOrDefault("roles", known.get("roles"));
        if (!database.equals(ADMIN)) {
            return refusal(2, "BadValue", "users are those of the database admin");
        }
        if (!roles.stream().allMatch(UsersBackend::isKnown)) {
            return refusal(31, "RoleNotFound", "roles are {role: 'readWrite', db: ...} and {role: 'root', db: 'admin'}");
        }
        // Others would have to be prepared as RFC 4013 says.
        if (password != null && !password.toString().matches("[!-~]+")) {
            return refusal(2, "BadValue", "passwords are of visible ASCII characters");
        }
        Object credentials = password == null ? known.get("credentials") : credentials(password.toString());
        users.put(name, new Document("roles", roles).append("credentials", credentials));
        return success();
    }

    private Document dropUser(String database, String name) {
        return database.equals(ADMIN) && users.remove(name) != null ? success() : unknown(name);
    }

    /** Of all users, or of one: `1`, a name, or `{user: ..., db: "admin"}`. */
    private Document usersInfo(Object asked) {
        Object one = asked instanceof Document document ? document.get("user") : asked;
        List<Document> found = users.keySet().stream()
            .filter(name -> one instanceof Number || name.equals(one))
            .map(name -> new Document("_id", ADMIN + "." + name)
                .append("user", name)
                .append("db", ADMIN)
                .append("roles", users.get(name).get("roles"))
                .append("mechanisms", List.of(MECHANISM)))
            .toList();
        return success().append("users", found);
    }

    private static boolean isKnown(Object role) {
        return role instanceof Document given && given.get("db") instanceof String database
            && ("readWrite".equals(given.get("role")) || "root".equals(given.get("role")) && database.equals(ADMIN));
    }

    private static boolean has(Document user, String role, String database) {
        return ((List<?>) user.get("roles")).stream()
            .map(Document.class::cast)
            .anyMatch(each -> role.equals(each.get("role")) && database.equals(each.get("db")));
    }

    private static Document success() {
        return new Document("ok", 1.0);
    }

    private static Document unknown(String name) {
        return refusal(11, "UserNotFound", "User '" + name + "@admin' not found");
    }

    private static Document refusal(int code, String codeName, String message) {
        return new Document("ok", 0.0).append("errmsg", message).append("code", code).append("codeName", codeName);
    }

    // --- bytes -------------------------------------------------------------------------------------------------------

    private byte[] random(int length) {
        byte[] made = new byte[length];
        random.nextBytes(made);
        return made;
    }

    private static String text(Object payload) {
        return payload instanceof BinData data ? new String(data.getData(), StandardCharsets.UTF_8) : "";
    }

    /** The value of an attribute of a SCRAM message, or null. */
    private static String attribute(String message, String name) {
        for (String part : message.split(",")) {
            if (part.startsWith(name + "=")) {
                return part.substring(2);
            }
        }
        return null;
    }

    private static String base64(byte[] bytes) {
        return Base64.getEncoder().encodeToString(bytes);
    }

    private static byte[] bytes(Document document, String key) {
        return Base64.getDecoder().decode((String) document.get(key));
    }

    /** Null when it is not base 64. */
    private static byte[] decoded(String text) {
        try {
            return Base64.getDecoder().decode(text);
        } catch (IllegalArgumentException malformed) {
            return null;
        }
    }

    private static byte[] hmac(byte[] key, String message) {
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            return mac.doFinal(message.getBytes(StandardCharsets.UTF_8));
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    private static byte[] sha256(byte[] bytes) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(bytes);
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    /** Null when the first is missing or of another length. */
    private static byte[] xor(byte[] one, byte[] other) {
        if (one == null || one.length != other.length) {
            return null;
        }
        byte[] result = new byte[one.length];
        for (int place = 0; place < result.length; place++) {
            result[place] = (byte) (one[place] ^ other[place]);
        }
        return result;
    }
}
