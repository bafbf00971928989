// ioredis. Arguments: port, kind.
const assert = require("node:assert/strict");
const Redis = require("ioredis");

const [port, kind] = [Number(process.argv[2]), process.argv[3]];
let checks = 0;
const same = (seen, expected) => {
  assert.deepEqual(seen, expected);
  checks += 1;
};
const connect = (more = {}) => new Redis({ port, host: "127.0.0.1", connectionName: "program", maxRetriesPerRequest: 2, ...more });

async function portable(r) {
  await r.flushall();
  const binary = Buffer.from([0, 13, 10, 255]);
  same(await r.set("s", binary, "EX", 100), "OK");
  same(await r.getBuffer("s"), binary);
  same(await r.get("nothing"), null);
  same(await r.set("s", "x", "NX"), null);
  same(await r.incrby("n", 42), 42);
  same(await r.mset({ a: 1, b: 2 }), "OK");
  same(await r.mget("a", "nothing", "b"), ["1", null, "2"]);
  same(await r.hset("h", { f: "v", g: "w" }), 2);
  same(await r.hgetall("h"), { f: "v", g: "w" });
  same(await r.rpush("l", "a", "b", "c"), 3);
  same(await r.lrange("l", 0, -1), ["a", "b", "c"]);
  same(await r.sadd("set", "a", "b"), 2);
  same((await r.smembers("set")).sort(), ["a", "b"]);
  same(await r.zadd("z", 1, "a", 2.5, "b"), 2);
  same(await r.zrange("z", 0, -1, "WITHSCORES"), ["a", "1", "b", "2.5"]);
  await assert.rejects(r.get("l"), /WRONGTYPE/);
  same(await r.unlink("l", "nothing"), 1);
  const pipeline = r.pipeline();
  for (let i = 0; i < 500; i += 1) pipeline.set(`p${i}`, i).get(`p${i}`);
  const replies = await pipeline.exec();
  same(replies.filter((_, i) => i % 2).map(([, value]) => Number(value)), [...Array(500).keys()]);
  // Many calls of one connection under way at once, and many connections.
  const clients = Array.from({ length: 20 }, () => connect());
  await Promise.all(clients.map(async (client, number) => {
    for (let i = 0; i < 50; i += 1) {
      const value = `${number}-${i}`;
      const [, seen] = await Promise.all([client.set(`client:${number}`, value), client.get(`client:${number}`)]);
      assert.equal(seen, value);
    }
    await client.quit();
  }));
  checks += 1;
  const large = Buffer.alloc(600_000, "0123456789");
  same(await r.set("large", large), "OK");
  same((await r.getBuffer("large")).equals(large), true);
}

async function full(r) {
  same(await r.multi().set("tx", 1).incr("tx").exec(), [[null, "OK"], [null, 2]]);
  const watching = connect();
  await watching.watch("tx");
  await r.set("tx", "changed");
  same(await watching.multi().set("tx", "lost").exec(), null);
  same(await r.client("GETNAME"), "program");
  const sub = connect();
  same(await sub.subscribe("news", "more"), 2);
  const message = new Promise((resolve) => sub.on("message", (channel, text) => resolve([channel, text])));
  same(await r.publish("news", "hello"), 1);
  same(await message, ["news", "hello"]);
  same(await sub.psubscribe("p*"), 3);
  same(await sub.unsubscribe("news", "more"), 1);
  same(await sub.punsubscribe("p*"), 0);
  same(await sub.get("tx"), "changed");
  const item = watching.blpop("queue", 5);
  await new Promise((resolve) => setTimeout(resolve, 100));
  await r.rpush("queue", "item");
  same(await item, ["queue", "item"]);
  same(await watching.blpop("queue", 0.05), null);
  for (let i = 0; i < 200; i += 1) r.set(`scan:${i}`, i);
  const keys = new Set();
  for await (const some of r.scanStream({ match: "scan:*", count: 20 })) some.forEach((key) => keys.add(key));
  same(keys.size, 200);
  r.defineCommand("bump", { numberOfKeys: 1, lua: "return redis.call('incr', KEYS[1])" });
  same([await r.bump("counter"), await r.bump("counter")], [1, 2]);
  same(await r.xadd("stream", "1-1", "f", "v"), "1-1");
  same(await watching.xread("BLOCK", 1000, "STREAMS", "stream", "0"), [["stream", [["1-1", ["f", "v"]]]]]);
  const one = connect({ db: 1 });
  same(await one.get("tx"), null);
  same(await one.set("tx", "one"), "OK");
  same(await r.get("tx"), "changed");
  same(await one.flushdb(), "OK");
  const monitor = await connect().monitor();
  const seen = new Promise((resolve) => monitor.on("monitor", (_, words) => words[0] === "echo" && resolve(words)));
  same(await r.echo("word"), "word");
  same(await seen, ["echo", "word"]);
  monitor.disconnect();
  // A connection that the server ends comes back by itself.
  const id = await one.client("ID");
  same(await r.client("KILL", "ID", id), 1);
  same(await one.ping(), "PONG");
  [watching, sub, one].forEach((client) => client.disconnect());
}

(async () => {
  const r = connect();
  await portable(r);
  if (kind === "full") await full(r);
  same(await r.quit(), "OK");
  console.log(`${checks} checks`);
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
