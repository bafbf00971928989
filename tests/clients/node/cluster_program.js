// ioredis' Cluster. Arguments: port, kind.
const assert = require("node:assert/strict");
const Redis = require("ioredis");

const [port, kind] = [Number(process.argv[2]), process.argv[3]];
let checks = 0;
const same = (seen, expected) => {
  assert.deepEqual(seen, expected);
  checks += 1;
};

(async () => {
  const r = new Redis.Cluster([{ host: "127.0.0.1", port }], { enableReadyCheck: true });
  const keys = Array.from({ length: 200 }, (_, i) => `key:${i}`);
  await Promise.all(keys.map(async (key) => same(await r.set(key, `of ${key}`, "EX", 100), "OK")));
  await Promise.all(keys.map(async (key) => same(await r.get(key), `of ${key}`)));
  same(await r.mset({ "{tag}:a": 1, "{tag}:b": 2 }), "OK");
  same(await r.mget("{tag}:a", "{tag}:nothing", "{tag}:b"), ["1", null, "2"]);
  same([0, 2].includes(await r.hset("hash", { f: "v", g: "w" })), true);
  same(await r.hgetall("hash"), { f: "v", g: "w" });
  const pipeline = r.pipeline();
  for (let i = 0; i < 100; i += 1) pipeline.get(`{tag}:a`);
  same((await pipeline.exec()).map(([, value]) => value), Array(100).fill("1"));
  if (kind === "full") {
    r.defineCommand("bump", { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], 5)" });
    same((await r.bump("count")) % 5, 0);
    const done = await r.multi().set("{tag}:c", 1).incr("{tag}:c").exec();
    same(done, [[null, "OK"], [null, 2]]);
    await r.subscribe("news");
    const seen = new Promise((resolve) => r.on("message", (channel, word) => resolve([channel, word])));
    const other = new Redis.Cluster([{ host: "127.0.0.1", port }]);
    await other.publish("news", "hello");
    same(await seen, ["news", "hello"]);
    other.disconnect();
  }
  await Promise.all(keys.map(async (key) => same(await r.del(key), 1)));
  r.disconnect();
  console.log(`${checks} checks`);
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
