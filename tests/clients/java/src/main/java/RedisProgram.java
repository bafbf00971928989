import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.JedisPubSub;
import redis.clients.jedis.RedisProtocol;
import redis.clients.jedis.exceptions.JedisDataException;
import redis.clients.jedis.params.ScanParams;
import redis.clients.jedis.params.SetParams;

/** Jedis, versions 2 and 3 of the protocol. Arguments: port, kind. */
public final class RedisProgram {
    private static int checks;
    private static int port;

    private static void same(Object seen, Object expected) {
        if (!Objects.equals(seen, expected)) {
            throw new AssertionError(seen + " is not " + expected);
        }
        checks++;
    }

    private static Jedis connect(RedisProtocol protocol, int database) {
        var config = DefaultJedisClientConfig.builder()
            .protocol(protocol).database(database).clientName("program").socketTimeoutMillis(10_000).build();
        return new Jedis(new HostAndPort("127.0.0.1", port), config);
    }

    public static void main(String[] args) throws Exception {
        port = Integer.parseInt(args[0]);
        for (var protocol : RedisProtocol.values()) {
            try (var jedis = connect(protocol, 0)) {
                portable(jedis);
                threads(protocol);
                if (args[1].equals("full")) {
                    full(jedis, protocol);
                }
            }
        }
        System.out.println(checks + " checks");
    }

    private static void portable(Jedis jedis) {
        jedis.flushAll();
        var binary = new byte[] {0, 13, 10, (byte) 255};
        same(jedis.set("s".getBytes(), binary), "OK");
        same(java.util.Arrays.equals(jedis.get("s".getBytes()), binary), true);
        same(jedis.get("nothing"), null);
        same(jedis.set("s", "x", SetParams.setParams().nx()), null);
        same(jedis.incrBy("n", 42), 42L);
        same(jedis.mset("a", "1", "b", "2"), "OK");
        var values = new ArrayList<>(jedis.mget("a", "nothing", "b"));
        same(values.get(0) + values.get(1) + values.get(2), "1null2");
        same(jedis.hset("h", Map.of("f", "v", "g", "w")), 2L);
        same(jedis.hgetAll("h"), Map.of("f", "v", "g", "w"));
        same(jedis.rpush("l", "a", "b", "c"), 3L);
        same(jedis.lrange("l", 0, -1), List.of("a", "b", "c"));
        same(jedis.sadd("set", "a", "b"), 2L);
        same(jedis.smembers("set"), Set.of("a", "b"));
        same(jedis.zadd("z", Map.of("a", 1.0, "b", 2.5)), 2L);
        same(jedis.zrange("z", 0, -1), List.of("a", "b"));
        same(jedis.zscore("z", "b"), 2.5);
        try {
            jedis.get("l");
            throw new AssertionError("a list is no string");
        } catch (JedisDataException error) {
            same(error.getMessage().startsWith("WRONGTYPE"), true);
        }
        var pipeline = jedis.pipelined();
        for (int i = 0; i < 500; i++) {
            pipeline.set("p" + i, "" + i);
            pipeline.get("p" + i);
        }
        var replies = pipeline.syncAndReturnAll();
        for (int i = 0; i < 500; i++) {
            same(replies.get(2 * i + 1), "" + i);
        }
        var large = "0123456789".repeat(60_000);
        same(jedis.set("large", large), "OK");
        same(jedis.get("large").equals(large), true);
    }

    private static void threads(RedisProtocol protocol) throws Exception {
        var faults = java.util.Collections.synchronizedList(new ArrayList<String>());
        var all = new ArrayList<Thread>();
        for (int number = 0; number < 24; number++) {
            int own = number;
            var thread = new Thread(() -> {
                try (var jedis = connect(protocol, 0)) {
                    for (int i = 0; i < 100; i++) {
                        var value = own + "-" + i;
                        jedis.set("thread:" + own, value);
                        var seen = jedis.get("thread:" + own);
                        if (!value.equals(seen)) {
                            faults.add(seen + " is not " + value);
                        }
                    }
                } catch (RuntimeException error) {
                    faults.add(error.toString());
                }
            });
            thread.start();
            all.add(thread);
        }
        for (var thread : all) {
            thread.join();
        }
        same(faults, List.of());
    }

    private static void full(Jedis jedis, RedisProtocol protocol) throws Exception {
        var transaction = jedis.multi();
        transaction.set("tx", "1");
        transaction.incr("tx");
        same(transaction.exec(), List.of("OK", 2L));
        try (var other = connect(protocol, 0)) {
            jedis.watch("tx");
            other.set("tx", "changed");
            transaction = jedis.multi();
            transaction.set("tx", "lost");
            same(transaction.exec(), null);
            same(jedis.clientGetname(), "program");
            var got = new CompletableFuture<String>();
            var ready = new CompletableFuture<Boolean>();
            var subscriber = new JedisPubSub() {
                @Override public void onSubscribe(String channel, int count) {
                    ready.complete(true);
                }

                @Override public void onMessage(String channel, String message) {
                    got.complete(channel + message);
                    unsubscribe();
                }
            };
            var thread = new Thread(() -> {
                try (var own = connect(protocol, 0)) {
                    own.subscribe(subscriber, "news");
                }
            });
            thread.start();
            ready.get(5, TimeUnit.SECONDS);
            same(jedis.publish("news", "hello"), 1L);
            same(got.get(5, TimeUnit.SECONDS), "newshello");
            thread.join(5000);
            same(thread.isAlive(), false);
            var pusher = new Thread(() -> {
                try {
                    Thread.sleep(100);
                } catch (InterruptedException error) {
                    throw new IllegalStateException(error);
                }
                other.rpush("queue", "item");
            });
            pusher.start();
            same(jedis.blpop(5, "queue"), List.of("queue", "item"));
            pusher.join();
            same(jedis.blpop(0.05, "queue"), null);
        }
        for (int i = 0; i < 200; i++) {
            jedis.set("scan:" + i, "" + i);
        }
        var keys = new HashSet<String>();
        var cursor = ScanParams.SCAN_POINTER_START;
        do {
            var page = jedis.scan(cursor, new ScanParams().match("scan:*").count(20));
            keys.addAll(page.getResult());
            cursor = page.getCursor();
        } while (!cursor.equals(ScanParams.SCAN_POINTER_START));
        same(keys.size(), 200);
        same(jedis.eval("return redis.call('incr', KEYS[1])", 1, "counter"), 1L);
        try (var one = connect(protocol, 1)) {
            same(one.get("tx"), null);
            same(one.set("tx", "one"), "OK");
            same(jedis.get("tx"), "changed");
            same(one.flushDB(), "OK");
        }
        jedis.select(2);
        same(jedis.get("tx"), null);
        jedis.select(0);
        same(jedis.get("tx"), "changed");
    }
}
