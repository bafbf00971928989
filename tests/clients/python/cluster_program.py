"""redis-py's RedisCluster, versions 2 and 3 of the protocol. Arguments: port, kind."""

import sys

from redis.cluster import RedisCluster

PORT, KIND = int(sys.argv[1]), sys.argv[2]
checks = 0


def same(seen, expected):
    global checks
    assert seen == expected, f"{seen!r} is not {expected!r}"
    checks += 1


for protocol in (2, 3):
    r = RedisCluster(host="127.0.0.1", port=PORT, protocol=protocol, socket_timeout=10)
    for i in range(200):
        same(r.set(f"key:{i}", i, ex=100), True)
    for i in range(200):
        same(r.get(f"key:{i}"), str(i).encode())
    same(r.mset({"{tag}:a": 1, "{tag}:b": 2}), True)
    same(r.mget("{tag}:a", "{tag}:nothing", "{tag}:b"), [b"1", None, b"2"])
    same(r.hset("hash", mapping={"f": "v", "g": "w"}) in (0, 2), True)
    same(r.hgetall("hash"), {b"f": b"v", b"g": b"w"})
    pipeline = r.pipeline()
    for i in range(100):
        pipeline.get(f"key:{i}")
    same(pipeline.execute(), [str(i).encode() for i in range(100)])
    same(r.cluster_keyslot("foo"), 12182)
    if KIND == "full":
        same(r.eval("return redis.call('incrby', KEYS[1], ARGV[1])", 1, "count", 5) % 5, 0)
        p = r.pubsub()
        p.subscribe("news")
        same(p.get_message(timeout=5)["type"], "subscribe")
        r.publish("news", "hello")
        same(p.get_message(timeout=5)["data"], b"hello")
        p.close()
    for i in range(200):
        same(r.delete(f"key:{i}"), 1)
    r.close()
print(f"{checks} checks")
