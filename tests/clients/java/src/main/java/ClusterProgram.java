import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.JedisCluster;
import redis.clients.jedis.RedisProtocol;
import redis.clients.jedis.Response;

/** JedisCluster, versions 2 and 3 of the protocol. Arguments: port, kind. */
public final class ClusterProgram {
    private static int checks;

    private static void same(Object seen, Object expected) {
        if (!Objects.equals(seen, expected)) {
            throw new AssertionError(seen + " is not " + expected);
        }
        checks++;
    }

    public static void main(String[] args) {
        var seed = Set.of(new HostAndPort("127.0.0.1", Integer.parseInt(args[0])));
        for (var protocol : RedisProtocol.values()) {
            var config = DefaultJedisClientConfig.builder().protocol(protocol).socketTimeoutMillis(10_000).build();
            try (var r = new JedisCluster(seed, config)) {
                for (int i = 0; i < 200; i++) {
                    same(r.setex("key:" + i, 100, "" + i), "OK");
                }
                var values = new ArrayList<Response<String>>();
                try (var pipeline = r.pipelined()) {
                    for (int i = 0; i < 200; i++) {
                        values.add(pipeline.get("key:" + i));
                    }
                }
                for (int i = 0; i < 200; i++) {
                    same(values.get(i).get(), "" + i);
                }
                same(r.mset("{tag}:a", "1", "{tag}:b", "2"), "OK");
                same(r.mget("{tag}:a", "{tag}:b"), List.of("1", "2"));
                r.hset("hash", Map.of("f", "v", "g", "w"));
                same(r.hgetAll("hash"), Map.of("f", "v", "g", "w"));
                if (args[1].equals("full")) {
                    same((Long) r.eval("return redis.call('incrby', KEYS[1], 5)", 1, "count") % 5, 0L);
                }
                for (int i = 0; i < 200; i++) {
                    same(r.del("key:" + i), 1L);
                }
            }
        }
        System.out.println(checks + " checks");
    }
}
