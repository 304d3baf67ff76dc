// Apollo Server with the fields of the feed, on the platform's gRPC services: what graphql is compared with.
//
// node apollo.cjs SCHEMA PROTOS AUTH MEDIA VIDEO: the schema's file, the folder of the protos, and the services' addresses.
// Prints the address on which it listens. Unlike graphql, it neither verifies tokens nor limits rates.

const fs = require("node:fs");
const path = require("node:path");
const { ApolloServer } = require("@apollo/server");
const { startStandaloneServer } = require("@apollo/server/standalone");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const DataLoader = require("dataloader");

const [schema, protos, auth, media, video] = process.argv.slice(2);
const FILES = ["auth/v1/auth", "media/v1/media", "media/v1/likes", "media/v1/watching", "video/v1/video"];
const { kinora } = grpc.loadPackageDefinition(
  loader.loadSync(FILES.map((file) => path.join(protos, "kinora", `${file}.proto`)), {
    includeDirs: [protos],
    defaults: true,
    enums: String,
    longs: Number,
  }),
);
const connect = (Service, address) => new Service(address, grpc.credentials.createInsecure());
const users = connect(kinora.auth.v1.Users, auth);
const catalogue = connect(kinora.media.v1.Catalogue, media);
const likes = connect(kinora.media.v1.Likes, media);
const watching = connect(kinora.media.v1.Watching, media);
const videos = connect(kinora.video.v1.Videos, video);

const globalId = (type, id) => Buffer.from(`${type}:${id}`).toString("base64");
const moment = (at) => at && new Date(at.seconds * 1000 + at.nanos / 1e6).toISOString();

// An operation's calls, which carry its token, and its loaders.
function contextOf(token) {
  const metadata = new grpc.Metadata();
  if (token) metadata.set("authorization", token);
  const call = (client, method, request) =>
    new Promise((resolve, reject) =>
      client[method](request, metadata, { deadline: Date.now() + 5000 }, (error, answer) =>
        error ? reject(error) : resolve(answer),
      ),
    );
  const byId = (client, method, key) =>
    new DataLoader(async (ids) => {
      const found = new Map((await call(client, method, { ids }))[key].map((each) => [each.id, each]));
      return ids.map((id) => found.get(id) ?? null);
    });
  return {
    call,
    users: byId(users, "ListUsers", "users"),
    videos: byId(videos, "ListVideos", "videos"),
    likes: new DataLoader(async (ids) => {
      const liked = new Set(token ? (await call(likes, "ListLikes", { mediaIds: ids })).mediaIds : []);
      return ids.map((id) => liked.has(id));
    }),
    positions: new DataLoader(async (ids) => {
      const positions = token ? (await call(watching, "ListPositions", { mediaIds: ids })).positions : {};
      return ids.map((id) => positions[id] ?? null);
    }),
  };
}

const resolvers = {
  Query: {
    feed: async (_, { first, after }, { call }) => {
      const page = await call(catalogue, "SearchMedia", { after: after ?? "", limit: first });
      return {
        nodes: page.entries.map((entry) => entry.media),
        pageInfo: { hasNextPage: page.hasMore, endCursor: page.entries.at(-1)?.cursor ?? null },
      };
    },
  },
  Media: {
    id: ({ id }) => globalId("Media", id),
    publishedAt: ({ publishedAt }) => moment(publishedAt),
    viewCount: ({ counters }) => counters.views,
    likeCount: ({ counters }) => counters.likes,
    commentCount: ({ counters }) => counters.comments,
    owner: ({ ownerId }, _, context) => context.users.load(ownerId),
    video: ({ id }, _, context) => context.videos.load(id),
    viewerHasLiked: ({ id }, _, context) => context.likes.load(id),
    viewerPosition: ({ id }, _, context) => context.positions.load(id),
  },
  User: { id: ({ id }) => globalId("User", id) },
  Video: { id: ({ id }) => globalId("Video", id), posterUrl: ({ posterUrl }) => posterUrl || null },
};

(async () => {
  const server = new ApolloServer({ typeDefs: fs.readFileSync(schema, "utf8"), resolvers, introspection: false });
  const { url } = await startStandaloneServer(server, {
    listen: { host: "127.0.0.1", port: 0 },
    context: async ({ req }) => contextOf(req.headers.authorization),
  });
  console.log(url);
})();
