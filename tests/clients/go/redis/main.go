// go-redis v9, versions 2 and 3 of the protocol. Arguments: port, kind.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

var checks int

func same(seen, expected interface{}) {
	if !reflect.DeepEqual(seen, expected) {
		log.Panicf("%#v is not %#v", seen, expected)
	}
	checks++
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Panic(err)
	}
	return value
}

func main() {
	ctx := context.Background()
	address, kind := "127.0.0.1:"+os.Args[1], os.Args[2]
	for _, protocol := range []int{2, 3} {
		options := func(db int) *redis.Options {
			return &redis.Options{Addr: address, Protocol: protocol, DB: db, PoolSize: 64, ClientName: "program", ContextTimeoutEnabled: true}
		}
		r := redis.NewClient(options(0))
		must(r.FlushAll(ctx).Result())
		portable(ctx, r)
		pool(ctx, r)
		if kind == "full" {
			full(ctx, r, redis.NewClient(options(1)))
		}
		must(0, r.Close())
	}
	fmt.Println(checks, "checks")
}

func portable(ctx context.Context, r *redis.Client) {
	binary := "\x00\r\n\xff"
	same(must(r.Set(ctx, "s", binary, time.Minute).Result()), "OK")
	same(must(r.Get(ctx, "s").Result()), binary)
	_, err := r.Get(ctx, "nothing").Result()
	same(err, redis.Nil)
	same(must(r.SetNX(ctx, "s", 1, 0).Result()), false)
	same(must(r.IncrBy(ctx, "n", 42).Result()), int64(42))
	same(must(r.HSet(ctx, "h", "f", "v", "g", "w").Result()), int64(2))
	same(must(r.HGetAll(ctx, "h").Result()), map[string]string{"f": "v", "g": "w"})
	same(must(r.RPush(ctx, "l", "a", "b", "c").Result()), int64(3))
	same(must(r.LRange(ctx, "l", 0, -1).Result()), []string{"a", "b", "c"})
	same(must(r.SAdd(ctx, "set", "a", "b").Result()), int64(2))
	same(must(r.SCard(ctx, "set").Result()), int64(2))
	same(must(r.ZAdd(ctx, "z", redis.Z{Score: 1.5, Member: "a"}, redis.Z{Score: 2, Member: "b"}).Result()), int64(2))
	same(must(r.ZRangeWithScores(ctx, "z", 0, -1).Result()), []redis.Z{{Score: 1.5, Member: "a"}, {Score: 2, Member: "b"}})
	same(r.Get(ctx, "l").Err() != nil && strings.HasPrefix(r.Get(ctx, "l").Err().Error(), "WRONGTYPE"), true)
	cmds := must(r.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := 0; i < 500; i++ {
			pipe.Set(ctx, fmt.Sprint("p", i), i, 0)
			pipe.Get(ctx, fmt.Sprint("p", i))
		}
		return nil
	}))
	for i := 0; i < 500; i++ {
		same(cmds[2*i+1].(*redis.StringCmd).Val(), fmt.Sprint(i))
	}
	large := strings.Repeat("0123456789abcdef", 40_000)
	same(must(r.Set(ctx, "large", large, 0).Result()), "OK")
	same(must(r.Get(ctx, "large").Result()) == large, true)
}

func pool(ctx context.Context, r *redis.Client) {
	var group sync.WaitGroup
	faults := make(chan error, 10_000)
	for thread := 0; thread < 64; thread++ {
		group.Add(1)
		go func(thread int) {
			defer group.Done()
			for i := 0; i < 100; i++ {
				key, value := fmt.Sprint("thread:", thread), fmt.Sprint(thread, "-", i)
				if err := r.Set(ctx, key, value, 0).Err(); err != nil {
					faults <- err
				}
				if seen, err := r.Get(ctx, key).Result(); err != nil || seen != value {
					faults <- fmt.Errorf("%s: %s is not %s: %v", key, seen, value, err)
				}
			}
		}(thread)
	}
	group.Wait()
	close(faults)
	for fault := range faults {
		log.Panic(fault)
	}
	checks++
}

func full(ctx context.Context, r, one *redis.Client) {
	cmds := must(r.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, "tx", 1, 0)
		pipe.Incr(ctx, "tx")
		return nil
	}))
	same(cmds[1].(*redis.IntCmd).Val(), int64(2))
	err := r.Watch(ctx, func(tx *redis.Tx) error {
		must(r.Set(ctx, "tx", "changed", 0).Result())
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Set(ctx, "tx", "lost", 0)
			return nil
		})
		return err
	}, "tx")
	same(err, redis.TxFailedErr)
	sub := r.Subscribe(ctx, "news")
	must(sub.Receive(ctx))
	same(must(r.Publish(ctx, "news", "hello").Result()), int64(1))
	same(must(sub.ReceiveMessage(ctx)).Payload, "hello")
	must(0, sub.PSubscribe(ctx, "n*"))
	must(sub.Receive(ctx))
	must(0, sub.Close())
	go func() {
		time.Sleep(100 * time.Millisecond)
		r.RPush(ctx, "queue", "item")
	}()
	same(must(r.BLPop(ctx, 5*time.Second, "queue").Result()), []string{"queue", "item"})
	_, err = r.BLPop(ctx, time.Second, "queue").Result()
	same(err, redis.Nil)
	seen := map[string]bool{}
	for i := 0; i < 200; i++ {
		must(r.Set(ctx, fmt.Sprint("scan:", i), i, 0).Result())
	}
	for keys := r.Scan(ctx, 0, "scan:*", 20).Iterator(); keys.Next(ctx); {
		seen[keys.Val()] = true
	}
	same(len(seen), 200)
	script := redis.NewScript("return redis.call('incr', KEYS[1])")
	same(must(script.Run(ctx, r, []string{"counter"}).Int()), 1)
	same(must(script.Run(ctx, r, []string{"counter"}).Int()), 2)
	must(r.XAdd(ctx, &redis.XAddArgs{Stream: "stream", ID: "1-1", Values: []string{"f", "v"}}).Result())
	streams := must(r.XRead(ctx, &redis.XReadArgs{Streams: []string{"stream", "0"}, Block: time.Second}).Result())
	same(streams[0].Messages[0].Values["f"], "v")
	same(errors.Is(one.Get(ctx, "tx").Err(), redis.Nil), true)
	same(must(one.Set(ctx, "tx", "one", 0).Result()), "OK")
	same(must(r.Get(ctx, "tx").Result()), "changed")
	must(one.FlushDB(ctx).Result())
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	same(r.BLPop(short, 0, "queue").Err() != nil, true)
	same(must(r.Ping(ctx).Result()), "PONG")
	same(must(r.RPush(ctx, "queue", "kept").Result()), int64(1))
	must(0, one.Close())
}
