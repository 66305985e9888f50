package redis_test

import (
	"fmt"
	"testing"

	goredis "github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/tallystick/tallystick/internal/coord/redis"
)

// The bucket in Redis is what its script says: while no time counts, it gives what is
// there and no more, is in debt by a burst at most, and never holds more than one.
func TestDrawScript(t *testing.T) {
	client := goredis.NewClient(&goredis.Options{Addr: server.Addr})
	defer client.Close() //nolint:errcheck // a test
	script := goredis.NewScript(redis.DrawScript)
	rapid.Check(t, func(rt *rapid.T) {
		key := fmt.Sprintf("script:%d", prefixes.Add(1))
		size := rapid.IntRange(1, 50).Draw(rt, "burst")
		tokens := size
		for range rapid.IntRange(1, 20).Draw(rt, "draws") {
			used, ask := rapid.IntRange(-60, 60).Draw(rt, "used"), rapid.IntRange(0, 60).Draw(rt, "ask")
			have, err := script.Run(t.Context(), client, []string{key}, 1e-9, size, used, ask).Int64Slice()
			must(t, err)
			tokens = max(-size, min(size, tokens-used))
			give := max(0, min(ask, tokens))
			tokens -= give
			wait := int64(0)
			if give < ask && tokens < 1 {
				wait = 3_600_000
			}
			if have[0] != int64(give) || have[1] != wait {
				rt.Fatalf("it gives %d and %d ms, %d and %d are right: %d are left of %d", have[0], have[1], give, wait, tokens, size)
			}
		}
		ttl, err := client.PTTL(t.Context(), key).Result()
		if must(t, err); ttl <= 0 {
			rt.Fatalf("a bucket is kept for ever: %v", ttl)
		}
	})
}
