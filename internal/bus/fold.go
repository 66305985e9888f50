package bus

import (
	"context"
	"fmt"
)

// foldPage is how many messages a fold holds at a time.
const foldPage = 2000

// Fold reads one group of a topic from its beginning up to a place, in order, and
// calls fn for each message. A log has no holes: hole says what is missing, for
// whoever checks a log instead of following it; it is empty when all is there.
// What was deleted on purpose (Begun) is not missing.
func Fold(ctx context.Context, src Source, group int, upTo Place, fn func(*Message) error) (hole string, err error) {
	at := BeginOf(src, group)
	var behind Place
	missing := int64(0)
	miss := func(to int64) {
		if to > at.Seq {
			if missing == 0 {
				behind = at
			}
			missing += to - at.Seq
		}
	}
	for ended := false; !ended && at.Seq < upTo.Seq; {
		msgs, err := src.Read(ctx, group, at, foldPage)
		if err != nil {
			return "", err
		}
		ended = len(msgs) == 0
		for i := range msgs {
			m := &msgs[i]
			if ended = m.Place.Seq > upTo.Seq; ended {
				break
			}
			miss(m.Place.Seq - 1) // the messages of one place share it
			at = m.Place
			if err := fn(m); err != nil {
				return "", err
			}
		}
	}
	miss(upTo.Seq)
	if missing > 0 {
		hole = fmt.Sprintf("topic %s, group %d: %d of %d messages are missing, the first behind %d", src.Topic(), group, missing, upTo.Seq, behind.Seq)
	}
	return hole, nil
}
