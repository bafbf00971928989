// go-redis v9 as a user of mecha who may use the keys below `app:`. Arguments: port, kind.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
)

var checks int

func check(holds bool, seen ...interface{}) {
	if !holds {
		log.Panic(seen...)
	}
	checks++
}

func main() {
	ctx := context.Background()
	for _, protocol := range []int{2, 3} {
		connect := func(user, password string) *redis.Client {
			return redis.NewClient(&redis.Options{
				Addr: "127.0.0.1:" + os.Args[1], Protocol: protocol, Username: user, Password: password, MaxRetries: -1,
			})
		}
		r := connect("app", "password")
		for i := 0; i < 50; i++ {
			key := fmt.Sprint("app:", i)
			check(r.Set(ctx, key, i, 0).Err() == nil, key)
		}
		value, err := r.Get(ctx, "app:49").Result()
		check(err == nil && value == "49", value, err)
		err = r.Set(ctx, "other", 1, 0).Err()
		check(err != nil && strings.HasPrefix(err.Error(), "NOPERM"), err)
		err = connect("", "").Get(ctx, "app:1").Err()
		check(err != nil && strings.HasPrefix(err.Error(), "NOAUTH"), err)
		for _, login := range [][2]string{{"app", "wrong"}, {"nobody", "password"}} {
			err = connect(login[0], login[1]).Get(ctx, "app:1").Err()
			check(err != nil && strings.HasPrefix(err.Error(), "WRONGPASS"), login, err)
		}
	}
	fmt.Println(checks, "checks")
}
