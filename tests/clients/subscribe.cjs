// Subscribes with graphql-ws or graphql-sse, and prints what happens as lines of JSON, until all operations have ended.
//
// node subscribe.cjs '{"protocol": "ws" | "sse", "url", "tokens", "operations": [{"query", "variables"}], "id", "keepAlive"}'
// tokens: of the first connection, the second, ...; the last one also of all later ones. id: of all operations.
const tell = (event, more = {}) => console.log(JSON.stringify({ event, ...more }));

const { protocol, url, tokens, operations, id, keepAlive = 0 } = JSON.parse(process.argv[2]);
const authorization = () => ({ authorization: `Bearer ${tokens.length > 1 ? tokens.shift() : tokens[0]}` });
const on = { connected: () => tell("connected") };

let client;
if (protocol === "ws") {
  client = require("graphql-ws").createClient({
    url,
    connectionParams: authorization,
    keepAlive,
    retryWait: () => new Promise((resolve) => setTimeout(resolve, 100)),
    ...(id ? { generateID: () => id } : {}),
    on: { ...on, closed: ({ code }) => tell("closed", { code }), pong: (received) => received && tell("pong") },
    webSocketImpl: require("ws"),
  });
} else {
  const retry = () => new Promise((resolve) => setTimeout(resolve, 100));
  client = require("graphql-sse").createClient({ url, headers: authorization, retry, on });
}

let open = operations.length;
const end = (event, more) => {
  tell(event, more);
  if (--open === 0) client.dispose();
};
for (const operation of operations) {
  client.subscribe(operation, {
    next: (result) => tell("next", { result }),
    error: (error) => end("error", { errors: [].concat(error).map(({ message, extensions }) => ({ message, extensions })), code: error.code }),
    complete: () => end("complete"),
  });
}
