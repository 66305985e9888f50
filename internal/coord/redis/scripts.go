package redis

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// drawScript is a token bucket, by Redis' own clock. KEYS: the bucket. ARGV: tokens
// per second; burst; what the replica has used of its own share and not told yet
// (below 0: what it gives back); what it asks for. It returns what it gives, and
// in how many milliseconds there is a token again if that is less. The bucket can be
// in debt, by its burst at most: shares are used without asking. It is forgotten
// when it must be full again.
const drawScript = `
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local rate, burst, used, ask = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local s = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(s[1]) or burst, tonumber(s[2]) or now
if now > at then tokens = tokens + (now - at) / 1000000 * rate end
tokens = math.max(-burst, math.min(burst, math.min(burst, tokens) - used))
local give = math.max(0, math.min(ask, math.floor(tokens)))
tokens = tokens - give
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(1e12, 1000 + (burst - tokens) / rate * 1000)))
local wait = 0
if give < ask and tokens < 1 then wait = math.min(3600000, math.ceil((1 - tokens) / rate * 1000)) end
return {give, wait}
`

// beatScript says that a replica lives, and counts those that do. KEYS: the role's
// sorted set. ARGV: the replica; how many milliseconds it counts from now on.
const beatScript = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[2]))
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
`

// script is known to Redis by its hash, until that is restarted or flushed.
type script struct {
	*redis.Script
	known bool // else the text goes along with the next call
}

func newScript(text string) *script { return &script{Script: redis.NewScript(text)} }

func (s *script) eval(ctx context.Context, p redis.Pipeliner, key string, args ...any) *redis.Cmd {
	if s.known {
		return s.EvalSha(ctx, p, []string{key}, args...)
	}
	return s.Eval(ctx, p, []string{key}, args...)
}

// noScript reports whether Redis does not know a script by its hash.
func noScript(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") }

// learn takes from the answers whether Redis knows the script by now.
func (s *script) learn(answers []*redis.Cmd) {
	for _, a := range answers {
		if s.known = a.Err() == nil; !s.known {
			return
		}
	}
}
