// Runs the audits of npm's graphql-http against a server: node audits.cjs URL. Prints a list of {id, name, status, reason}.
const { auditServer } = require("graphql-http");

auditServer({ url: process.argv[2] }).then((results) => console.log(JSON.stringify(results)));
