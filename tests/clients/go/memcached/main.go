// gomemcache. Arguments: port, kind.
package main

import (
	"fmt"
	"log"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

var checks int

func same(seen, expected interface{}) {
	if !reflect.DeepEqual(seen, expected) {
		log.Panicf("%#v is not %#v", seen, expected)
	}
	checks++
}

func value(c *memcache.Client, key string) string {
	item, err := c.Get(key)
	same(err, nil)
	return string(item.Value)
}

func main() {
	c := memcache.New("127.0.0.1:" + os.Args[1])
	c.Timeout, c.MaxIdleConns = 10*time.Second, 64
	same(c.DeleteAll(), nil)
	same(c.Set(&memcache.Item{Key: "a", Value: []byte("\x00\r\n\xff"), Flags: 77}), nil)
	item, err := c.Get("a")
	same(err, nil)
	same([]interface{}{string(item.Value), item.Flags}, []interface{}{"\x00\r\n\xff", uint32(77)})
	_, err = c.Get("nothing")
	same(err, memcache.ErrCacheMiss)
	same(c.Add(&memcache.Item{Key: "a", Value: []byte("x")}), memcache.ErrNotStored)
	same(c.Replace(&memcache.Item{Key: "nothing", Value: []byte("x")}), memcache.ErrNotStored)
	same(c.Append(&memcache.Item{Key: "a", Value: []byte("+")}), nil)
	same(value(c, "a"), "\x00\r\n\xff+")
	item, _ = c.Get("a")
	item.Value = []byte("new")
	same(c.CompareAndSwap(item), nil)
	item.Value = []byte("newer")
	same(c.CompareAndSwap(item), memcache.ErrCASConflict)
	same(c.Set(&memcache.Item{Key: "n", Value: []byte("10")}), nil)
	number, err := c.Increment("n", 5)
	same([]interface{}{number, err}, []interface{}{uint64(15), nil})
	number, err = c.Decrement("n", 50)
	same([]interface{}{number, err}, []interface{}{uint64(0), nil})
	same(c.Touch("n", 100), nil)
	keys := []string{}
	for i := 0; i < 50; i++ {
		keys = append(keys, fmt.Sprint("m", i))
		same(c.Set(&memcache.Item{Key: keys[i], Value: []byte(keys[i])}), nil)
	}
	items, err := c.GetMulti(append(keys, "nothing"))
	same([]interface{}{len(items), err}, []interface{}{50, nil})
	same(c.Delete("m1"), nil)
	same(c.Delete("m1"), memcache.ErrCacheMiss)
	large := strings.Repeat("0123456789abcdef", 40_000)
	same(c.Set(&memcache.Item{Key: "large", Value: []byte(large)}), nil)
	same(value(c, "large") == large, true)
	var group sync.WaitGroup
	faults := make(chan error, 10_000)
	for thread := 0; thread < 48; thread++ {
		group.Add(1)
		go func(thread int) {
			defer group.Done()
			for i := 0; i < 100; i++ {
				key, value := fmt.Sprint("thread:", thread), fmt.Sprint(thread, "-", i)
				if err := c.Set(&memcache.Item{Key: key, Value: []byte(value)}); err != nil {
					faults <- err
				}
				if item, err := c.Get(key); err != nil || string(item.Value) != value {
					faults <- fmt.Errorf("%s: %v", key, err)
				}
			}
		}(thread)
	}
	group.Wait()
	close(faults)
	for fault := range faults {
		log.Panic(fault)
	}
	same(c.Ping(), nil)
	fmt.Println(checks, "checks")
}
