import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import java.util.List;
import org.h2.mvstore.MVStore;

/**
 * The MongoDB wire protocol over one file, for a machine without MongoDB. Arguments: host, port, file.
 *
 * Without users, unless MONGO_INITDB_ROOT_USERNAME and MONGO_INITDB_ROOT_PASSWORD name the first one.
 */
public class MongoStandIn {
    /** Drivers refuse the wire version 8 that all versions known to the library have. */
    private record Version5() implements MongoVersion {
        public List<Integer> getVersionArray() { return List.of(5, 0, 0); }
        public int getWireVersion() { return 13; }
    }

    public static void main(String[] arguments) {
        MVStore file = new MVStore.Builder().fileName(arguments[2]).open();
        // An acknowledged write reaches the file within 20 ms; H2's own 1 s is too much to lose to a kill.
        file.setAutoCommitDelay(20);
        String root = System.getenv("MONGO_INITDB_ROOT_USERNAME");
        H2Backend backend = root == null
            ? new H2Backend(file)
            : new UsersBackend(file, root, System.getenv("MONGO_INITDB_ROOT_PASSWORD"));
        MongoServer server = new MongoServer(backend.version(new Version5()));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        server.bind(arguments[0], Integer.parseInt(arguments[1]));
    }
}
