"""pymemcache. Arguments: port, kind."""

import sys
import threading
import time

from pymemcache.client.base import Client, PooledClient
from pymemcache.exceptions import MemcacheIllegalInputError
from pymemcache.serde import pickle_serde

PORT = int(sys.argv[1])
checks = 0


def same(seen, expected):
    global checks
    assert seen == expected, f"{seen!r} is not {expected!r}"
    checks += 1


c = Client(("127.0.0.1", PORT), timeout=10, connect_timeout=10, default_noreply=False)
same(c.flush_all(), True)
same(c.set("a", b"\x00\r\n\xff"), True)
same(c.get("a"), b"\x00\r\n\xff")
same(c.get("nothing"), None)
same(c.add("a", b"x"), False)
same(c.add("b", b"x"), True)
same(c.replace("nothing", b"x"), False)
same(c.replace("b", b"y"), True)
same(c.append("b", b">"), True)
same(c.prepend("b", b"<"), True)
same(c.get("b"), b"<y>")
same(c.set("n", b"10"), True)
same(c.incr("n", 5), 15)
same(c.decr("n", 20), 0)
same(c.incr("nothing", 1), None)
value, cas = c.gets("n")
same(value.strip(), b"0")
same(c.cas("n", b"7", cas), True)
same(c.cas("n", b"8", cas), False)
same(c.cas("nothing", b"8", cas), None)
same(c.set_many({f"m{i}": str(i).encode() for i in range(100)}), [])
same(c.get_many([f"m{i}" for i in range(110)]), {f"m{i}": str(i).encode() for i in range(100)})
same(len(c.gets_many([f"m{i}" for i in range(10)])), 10)
same(c.delete("a"), True)
same(c.delete("a"), False)
same(c.touch("b", expire=100), True)
same(c.touch("nothing", expire=100), False)
same(c.set("short", b"x", expire=1), True)
time.sleep(2.1)
same(c.get("short"), None)
for i in range(200):
    c.set("quiet", str(i).encode(), noreply=True)
same(c.get("quiet"), b"199")
same(c.delete("quiet", noreply=True), True)
same(c.get("quiet"), None)
large = bytes(range(256)) * 2000
same(c.set("large", large), True)
same(c.get("large") == large, True)
same(isinstance(c.version(), bytes), True)
try:
    c.set("has space", b"x")
    raise AssertionError("a key with a space")
except MemcacheIllegalInputError:
    same(True, True)
flags = Client(("127.0.0.1", PORT), serde=pickle_serde, timeout=10, default_noreply=False)
same(flags.set("object", {"k": [1, 2.5, None]}), True)
same(flags.get("object"), {"k": [1, 2.5, None]})
same(flags.set("number", 42), True)
same(flags.get("number"), 42)

pool = PooledClient(("127.0.0.1", PORT), max_pool_size=32, timeout=10, default_noreply=False)
faults = []


def run(thread):
    try:
        for i in range(100):
            pool.set(f"thread:{thread}", f"{thread}-{i}".encode())
            seen = pool.get(f"thread:{thread}")
            if seen != f"{thread}-{i}".encode():
                faults.append((thread, i, seen))
    except Exception as error:  # noqa: BLE001
        faults.append(error)


threads = [threading.Thread(target=run, args=(number,)) for number in range(24)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
same(faults, [])
c.quit()
same(Client(("127.0.0.1", PORT), timeout=10).get("n"), b"7")
print(f"{checks} checks")
