"""Clients with a name and a password: redis-py, python-binary-memcached (SASL) and pymemcache. Arguments: port, kind.

`redis` and `memcached` are users of mecha, who may use the keys below `app:`; `sasl` is a user of the server behind, and
`anonymous` one that mecha logs in for.
"""

import sys

import bmemcached
import redis
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError

PORT, KIND = int(sys.argv[1]), sys.argv[2]
USER, PASSWORD = "app", "password"
checks = 0


def same(seen, expected):
    global checks
    assert seen == expected, f"{seen!r} is not {expected!r}"
    checks += 1


def raises(kinds, call):
    try:
        seen = call()
    except kinds:
        same(True, True)
    else:
        raise AssertionError(f"{seen!r} and no {kinds}")


def redis_users(protocol):
    def connect(**login):
        return redis.Redis(port=PORT, protocol=protocol, socket_timeout=10, **login)

    r = connect(username=USER, password=PASSWORD)
    for number in range(50):
        same(r.set(f"app:{number}", number), True)
    same(r.mget("app:1", "app:49"), [b"1", b"49"])
    same(r.execute_command("ACL WHOAMI") in (USER, USER.encode()), True)
    with r.pipeline(transaction=True) as pipe:
        same(pipe.incr("app:1").get("app:1").execute(), [2, b"2"])
    raises(redis.exceptions.NoPermissionError, lambda: r.set("other", 1))
    raises(redis.exceptions.NoPermissionError, lambda: r.flushall())
    raises(redis.exceptions.AuthenticationError, lambda: connect().get("app:1"))
    for login in ({"username": USER, "password": "wrong"}, {"username": "nobody", "password": PASSWORD}):
        raises(redis.exceptions.AuthenticationError, lambda: connect(**login).get("app:1"))


def binary(user=None, password=None):
    return bmemcached.Client(f"127.0.0.1:{PORT}", user, password, socket_timeout=10)


def sasl():
    c = binary(USER, PASSWORD)
    for number in range(50):
        same(c.set(f"app:{number}", str(number)), True)
    same(c.get("app:7"), "7")
    same(c.get_multi(["app:1", "app:2", "app:none"]), {"app:1": "1", "app:2": "2"})
    same(c.incr("app:7", 3), 10)
    same(c.delete("app:7"), True)
    same(c.get("app:7"), None)
    # Their fault is told, and it is theirs alone.
    for user, password in ((USER, "wrong"), ("nobody", PASSWORD)):
        raises(bmemcached.exceptions.MemcachedException, lambda: binary(user, password).set("app:1", "x"))
    same(c.get("app:1"), "1")


def text_login():
    anonymous = Client(("127.0.0.1", PORT), timeout=10, default_noreply=False)
    raises(MemcacheClientError, lambda: anonymous.get("app:1"))
    wrong = Client(("127.0.0.1", PORT), timeout=10, default_noreply=False)
    raises(MemcacheClientError, lambda: wrong.set("login", f"{USER} wrong"))
    c = Client(("127.0.0.1", PORT), timeout=10, default_noreply=False)
    same(c.set("login", f"{USER} {PASSWORD}"), True)
    for number in range(50):
        same(c.set(f"app:text:{number}", str(number)), True)
    same(c.get("app:text:9"), b"9")
    same(c.get_many(["app:text:1", "app:text:2"]), {"app:text:1": b"1", "app:text:2": b"2"})
    # The client closes its connection at any error.
    raises(MemcacheClientError, lambda: c.set("other", "x"))


if KIND == "redis":
    redis_users(2)
    redis_users(3)
elif KIND == "memcached":
    sasl()
    refused = bmemcached.exceptions.MemcachedException
    raises(refused, lambda: binary(USER, PASSWORD).set("other", "x"))
    raises(refused, lambda: binary().set("app:1", "x"))
    text_login()
elif KIND == "sasl":
    sasl()
    same(binary(USER, PASSWORD).set("other", "x"), True)
elif KIND == "anonymous":
    for number in range(60):
        c = binary()
        same(c.set(f"app:{number}", str(number)), True)
        same(c.get(f"app:{number}"), str(number))
        c.disconnect_all()
print(f"{checks} checks")
