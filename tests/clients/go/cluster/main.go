// go-redis' ClusterClient, versions 2 and 3 of the protocol. Arguments: port, kind.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"reflect"
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
	for _, protocol := range []int{2, 3} {
		// Replicas are asked for, so that READONLY is said on every connection.
		r := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:" + os.Args[1]}, Protocol: protocol, ReadOnly: true})
		for i := 0; i < 200; i++ {
			same(must(r.Set(ctx, fmt.Sprint("key:", i), i, time.Minute).Result()), "OK")
		}
		cmds := must(r.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := 0; i < 200; i++ {
				p.Incr(ctx, fmt.Sprint("key:", i))
			}
			return nil
		}))
		for i, cmd := range cmds {
			same(cmd.(*redis.IntCmd).Val(), int64(i+1))
		}
		same(must(r.MSet(ctx, "{tag}:a", 1, "{tag}:b", 2).Result()), "OK")
		done := must(r.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, "{tag}:c", 1, 0)
			p.Incr(ctx, "{tag}:c")
			return nil
		}))
		same(done[1].(*redis.IntCmd).Val(), int64(2))
		if os.Args[2] == "full" {
			script := redis.NewScript("return redis.call('incrby', KEYS[1], 5)")
			same(must(script.Run(ctx, r, []string{"count"}).Int())%5, 0)
			sub := r.Subscribe(ctx, "news")
			must(sub.Receive(ctx))
			must(r.Publish(ctx, "news", "hello").Result())
			same(must(sub.ReceiveMessage(ctx)).Payload, "hello")
			must(0, sub.Close())
		}
		for i := 0; i < 200; i++ {
			same(must(r.Del(ctx, fmt.Sprint("key:", i)).Result()), int64(1))
		}
		must(0, r.Close())
	}
	fmt.Println(checks, "checks")
}
