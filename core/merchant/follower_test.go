package merchant_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/fault"
)

// topic is what boards show.
type topic struct {
	records  [][]byte
	bytesMax int
	gone     error // the brokers
	closed   error // to who puts
}

// last is what compaction would keep.
func (b *topic) last() string {
	if len(b.records) == 0 {
		return ""
	}
	return string(b.records[len(b.records)-1])
}

// board is one process's view of it.
type board struct {
	*topic
	next  int
	waits []time.Duration
	asked func()
}

func (b *board) Put(_ context.Context, record []byte) error {
	switch {
	case b.gone != nil || b.closed != nil:
		return errors.Join(b.gone, b.closed)
	case b.bytesMax > 0 && len(record) > b.bytesMax:
		return &fault.Error{Kind: fault.TooLarge, Code: "record_too_large"}
	}
	b.records = append(b.records, bytes.Clone(record))
	return nil
}

func (b *board) Next(_ context.Context, wait time.Duration) (out [][]byte, all bool, err error) {
	b.waits = append(b.waits, wait)
	if b.asked != nil {
		b.asked()
	}
	switch {
	case b.gone != nil:
		return nil, false, b.gone
	case b.next > len(b.records):
		return nil, false, fault.New(fault.Conflict, "board", "it has %d", len(b.records))
	case b.next < len(b.records): // one at a time
		out, b.next = b.records[b.next:b.next+1], b.next+1
	}
	return out, b.next == len(b.records), nil
}

func (b *board) Rewind() { b.next = 0 }

// process is one that follows a topic from a folder of its own.
type process struct {
	*testing.T
	*merchant.Follower
	dir       string
	file      string
	directory *merchant.Directory
	board     *board
	now       time.Time
	log       bytes.Buffer
}

// start starts one; text is its directory.yaml, none for one that publishes nothing.
func start(t *testing.T, on *topic, dir, text string) *process {
	t.Helper()
	p := &process{T: t, dir: dir, directory: merchant.NewDirectory(nil), board: &board{topic: on}, now: time.Unix(1_800_000_000, 0)}
	d := merchant.FollowerDeps{Board: p.board, Directory: p.directory, Snapshot: p.snapshot(), Now: func() time.Time { return p.now }, Log: slog.New(slog.NewTextHandler(&p.log, nil))}
	if text != "" {
		p.file = filepath.Join(dir, "directory.yaml")
		write(t, p.file, text)
		d.File = p.file
	}
	p.Follower = merchant.NewFollower(d)
	return p
}

func (p *process) snapshot() string { return filepath.Join(p.dir, "directory.snapshot") }

// step steps often enough to read and publish everything, and looks at what is in force.
func (p *process) step(what string, version, refused int64) {
	p.Helper()
	for range 8 {
		if err := p.Step(p.Context(), 0); err != nil {
			p.Fatalf("%s: %v", what, err)
		}
	}
	p.is(what, version, refused)
}

func (p *process) is(what string, version, refused int64) {
	p.Helper()
	if v, n := p.directory.Current().Version, p.Refused(); v != version || n != refused {
		p.Fatalf("%s: version %d in force and %d refused, want %d and %d\n%s", what, v, n, version, refused, p.log.String())
	}
	if known := p.Missing() == nil; known != (version > 0) {
		p.Fatalf("%s: version %d, and missing is %v", what, version, p.Missing())
	}
}

func (p *process) kept() string {
	p.Helper()
	text, err := os.ReadFile(p.snapshot())
	if err != nil {
		p.Fatal(err)
	}
	return string(text)
}

func version(text, v string) string { return strings.Replace(text, "version: 3", "version: "+v, 1) }

// recordOf is what is published of a file.
func recordOf(t *testing.T, text string) []byte {
	t.Helper()
	s, err := merchant.Load(write(t, "", text))
	if err != nil {
		t.Fatal(err)
	}
	return merchant.RecordForTest(s.Version, text)
}

// What one process has in its file is in force in all others, which have none; they
// start with it again when nobody is there.
func TestPublishedIsInForceEverywhere(t *testing.T) {
	on := &topic{}
	gateway := start(t, on, t.TempDir(), "")
	if err := gateway.Missing(); !strings.Contains(err.Error(), "not asked") {
		t.Errorf("before it has read: %v", err)
	}
	gateway.step("nothing is published", 0, 0)
	if err := gateway.Missing(); !strings.Contains(err.Error(), "nothing is published") || !strings.Contains(err.Error(), "directory.yaml") {
		t.Errorf("missing: %v", err)
	}
	core := start(t, on, t.TempDir(), good)
	core.step("the file", 3, 0)
	gateway.step("published", 3, 0)
	select {
	case <-gateway.Settled():
	default:
		t.Error("everything was read, and it has not settled")
	}
	if len(on.records) != 1 || gateway.kept() != on.last() || !strings.HasSuffix(on.last(), "\n"+good) {
		t.Errorf("%d records; kept %q of %q", len(on.records), gateway.kept(), on.last())
	}
	write(t, core.file, strings.Replace(version(good, "4"), hashA, strings.Repeat("ab", 32), 1))
	core.step("a key less", 4, 0)
	gateway.step("a key less", 4, 0)
	if keys := gateway.directory.Current().Merchant("shop").KeyHashes; keys[0] == hashA {
		t.Error("the revoked key is in force")
	}
	on.gone = fault.New(fault.Unavailable, "board", "gone")
	again := start(t, on, gateway.dir, "")
	again.is("from the snapshot, the board gone", 4, 0)
	if err := again.Step(t.Context(), 0); !fault.Is(err, fault.Unavailable) {
		t.Errorf("the board is gone: %v", err)
	}
	fresh := start(t, on, t.TempDir(), "")
	_ = fresh.Step(t.Context(), 0)
	if err := fresh.Missing(); !strings.Contains(err.Error(), "gone") {
		t.Errorf("no snapshot, and the board is gone: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(gateway.dir, "*.new")); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// The highest version wins, in whatever order records are there, and the last one there
// is put right by who publishes, or who starts without a snapshot would have an old one.
func TestTheHighestVersionWins(t *testing.T) {
	on := &topic{records: [][]byte{recordOf(t, version(good, "6")), recordOf(t, version(good, "5")), recordOf(t, version(good, "6"))}}
	gateway := start(t, on, t.TempDir(), "")
	gateway.step("higher, lower, again", 6, 0)
	if n := len(on.records); n != 3 {
		t.Errorf("who publishes nothing has published: %d records", n)
	}
	on.records = on.records[:2]
	core := start(t, on, t.TempDir(), version(good, "5"))
	core.step("its file is older", 6, 0)
	if len(on.records) != 3 || on.last() != string(recordOf(t, version(good, "6"))) {
		t.Errorf("%d records, the last %.80q", len(on.records), on.last())
	}
	if !strings.Contains(core.log.String(), "older than what is in force") {
		t.Errorf("nobody was told:\n%s", core.log.String())
	}
	write(t, core.file, version(good, "6")+"# other\n")
	core.step("the same version, another file", 6, 1)
	write(t, core.file, version(good, "4"))
	core.step("lowered", 6, 2)
	write(t, core.file, version(good, "6"))
	core.step("what is in force", 6, 2)
	write(t, core.file, version(good, "7"))
	core.step("raised", 7, 2)
	if len(on.records) != 4 {
		t.Errorf("%d records", len(on.records))
	}
}

// What the processes of a folder may begin with is what is published by now, and what the
// folder's file has, whatever its snapshot says: also when that file is refused.
func TestItSettles(t *testing.T) {
	bad := strings.Replace(version(good, "9"), "burst: 4", "burst: 0", 1)
	for name, tc := range map[string]struct {
		topic          topic
		snapshot, file string
		version        int64 // with which it settles; 0 for never
		missing        string
	}{
		"published, no snapshot":         {topic{records: [][]byte{recordOf(t, good)}}, "", "", 3, ""},
		"published while it was off":     {topic{records: [][]byte{recordOf(t, version(good, "4")), recordOf(t, version(good, "6"))}}, good, "", 6, ""},
		"nothing newer is published":     {topic{records: [][]byte{recordOf(t, good)}}, version(good, "4"), "", 4, ""},
		"nothing is published":           {topic{}, "", "", 0, "not_published"},
		"a snapshot, nothing published":  {topic{}, good, "", 3, ""},
		"the brokers are gone":           {topic{gone: errors.New("gone")}, good, "", 0, ""},
		"the file is the first":          {topic{}, "", good, 3, ""},
		"the file is newer":              {topic{records: [][]byte{recordOf(t, good)}}, good, version(good, "4"), 4, ""},
		"the file is older":              {topic{records: [][]byte{recordOf(t, good), recordOf(t, version(good, "5"))}}, good, version(good, "4"), 5, ""},
		"the file is not valid":          {topic{records: [][]byte{recordOf(t, version(good, "4"))}}, good, bad, 4, ""},
		"the file is too large":          {topic{bytesMax: len(good), records: [][]byte{recordOf(t, good)}}, good, version(good, "4"), 3, ""},
		"the file and its version taken": {topic{records: [][]byte{recordOf(t, good)}}, "", good + "# other\n", 3, ""},
		"the brokers are gone from core": {topic{gone: errors.New("gone")}, good, version(good, "4"), 0, "gone"},
		"core may not write":             {topic{closed: errors.New("closed")}, good, version(good, "4"), 0, "not published: closed"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.snapshot != "" {
				write(t, filepath.Join(dir, "directory.snapshot"), string(recordOf(t, tc.snapshot)))
			}
			p := start(t, &tc.topic, dir, tc.file)
			settled := func() bool {
				select {
				case <-p.Settled():
					return true
				default:
					return false
				}
			}
			for n := 0; n < 8 && !settled(); n++ {
				_ = p.Step(t.Context(), 0)
			}
			if have := p.directory.Current().Version; settled() != (tc.version > 0) || settled() && have != tc.version {
				t.Errorf("settled %t, with version %d", settled(), have)
			}
			if err := p.Missing(); (err == nil) != (tc.missing == "") || err != nil && !strings.Contains(err.Error(), tc.missing) {
				t.Errorf("missing %v", err)
			}
		})
	}
}

// A file that cannot be read at the start is refused; one that is not there is not.
func TestAFileThatCannotBeRead(t *testing.T) {
	p := start(t, &topic{records: [][]byte{recordOf(t, good)}}, t.TempDir(), version(good, "4"))
	if err := os.Remove(p.file); err != nil {
		t.Fatal(err)
	}
	p.Follower = merchant.NewFollower(p.FollowerDeps)
	p.step("none", 3, 0)
	if err := os.Mkdir(p.file, 0o700); err != nil {
		t.Fatal(err)
	}
	p.Follower = merchant.NewFollower(p.FollowerDeps)
	p.step("a folder", 3, 1)
}

// Nobody publishes before everything there is known, or a lower version would follow a
// higher one.
func TestNothingIsPublishedBeforeAllIsRead(t *testing.T) {
	on := &topic{records: [][]byte{recordOf(t, version(good, "4")), recordOf(t, version(good, "6"))}}
	core := start(t, on, t.TempDir(), version(good, "5"))
	core.now = core.now.Add(time.Second)
	if err := core.Step(t.Context(), 0); err != nil || len(on.records) != 2 || core.Age() != time.Second {
		t.Errorf("%d records after the first was read, age %s: %v", len(on.records), core.Age(), err)
	}
	core.step("all is read", 6, 0)
	if len(on.records) != 2 {
		t.Errorf("%d records", len(on.records))
	}
}

// A topic that was lost and made anew is filled again by who publishes, also with what
// it has no file of; nobody goes back to an older version meanwhile.
func TestALostTopicIsFilledAgain(t *testing.T) {
	on := &topic{}
	core, gateway := start(t, on, t.TempDir(), good), start(t, on, t.TempDir(), "")
	core.step("published", 3, 0)
	write(t, core.file, version(good, "4"))
	core.step("published", 4, 0)
	gateway.step("published", 4, 0)
	if err := os.Remove(core.file); err != nil {
		t.Fatal(err)
	}
	core.step("no file any more", 4, 1)

	on.records = nil // as short as it never was
	if err := gateway.Step(t.Context(), 0); !fault.Is(err, fault.Conflict) {
		t.Errorf("a shorter topic: %v", err)
	}
	gateway.step("lost", 4, 0)
	_ = core.Step(t.Context(), 0)
	core.step("lost", 4, 1)
	if len(on.records) != 1 || on.last() != string(recordOf(t, version(good, "4"))) {
		t.Errorf("%d records, the last %.80q", len(on.records), on.last())
	}

	// As long as it was, with something older in it: nobody sees it but who reads anew.
	gateway.step("lost", 4, 0)
	on.records = [][]byte{recordOf(t, good)}
	core.step("replaced", 4, 1)
	if len(on.records) != 1 {
		t.Fatalf("%d records", len(on.records))
	}
	core.now, gateway.now = core.now.Add(2*time.Minute), gateway.now.Add(2*time.Minute)
	core.step("replaced", 4, 1)
	gateway.step("replaced", 4, 0)
	if len(on.records) != 2 || on.last() != string(recordOf(t, version(good, "4"))) {
		t.Errorf("%d records, the last %.80q", len(on.records), on.last())
	}
}

// The topic is lost, and core's folder with it: what is published from then on is older
// than a gateway's snapshot, which goes on with what it has. That is told once, and how to
// end it.
func TestAGatewayThatIsAheadIsTold(t *testing.T) {
	nine := recordOf(t, version(good, "9"))
	dir, on := t.TempDir(), &topic{}
	write(t, filepath.Join(dir, "directory.snapshot"), string(nine))
	core, gateway := start(t, on, t.TempDir(), good), start(t, on, dir, "")
	again := func(what string, refused int64) {
		t.Helper()
		gateway.now = gateway.now.Add(2 * time.Minute)
		gateway.step(what, 9, refused)
	}
	gateway.step("nothing is published", 9, 0)
	again("nothing is published", 0)
	again("nothing is published", 0)
	core.step("a new beginning", 3, 0)
	again("older", 0)
	again("older for a moment", 0)
	on.records = append(on.records, nine)
	gateway.step("put right", 9, 0)
	again("put right", 0)
	on.records = on.records[:1]
	again("older", 0)
	again("older", 0)
	again("older for long", 1)
	again("told once", 1)
	if text := gateway.log.String(); !strings.Contains(text, "version_behind") || !strings.Contains(text, "above 9") {
		t.Errorf("it was not told how to end it:\n%s", text)
	}
	write(t, core.file, version(good, "10"))
	core.step("raised", 10, 0)
	gateway.step("raised", 10, 1)
}

// What is damaged, unknown or not valid is refused and told, once; the last good one
// stays in force, and goes back on the board where nobody can read what is there.
func TestRecordsAreRefused(t *testing.T) {
	nine := version(good, "9")
	for name, tc := range map[string]struct {
		raw      []byte
		code     string
		replaced bool
	}{
		"cut":                 {recordOf(t, nine)[:300], "checksum_wrong", true},
		"a flipped bit":       {bytes.Replace(recordOf(t, nine), []byte("burst: 4"), []byte("burst: 5"), 1), "checksum_wrong", true},
		"empty":               {nil, "header_unreadable", true},
		"no line":             {[]byte(good), "header_unreadable", true},
		"a line that is cut":  {recordOf(t, nine)[:60], "header_unreadable", true},
		"another version":     {bytes.Replace(recordOf(t, nine), []byte("version=9"), []byte("version=10"), 1), "version_wrong", false},
		"a format of later":   {bytes.Replace(recordOf(t, nine), []byte("format=1"), []byte("format=2"), 1), "format_unknown", false},
		"the same version":    {recordOf(t, good+"# other\n"), "version_taken", false},
		"a value that is bad": {merchant.RecordForTest(9, strings.Replace(nine, "burst: 4", "burst: 0", 1)), "bad_value", false},
	} {
		t.Run(name, func(t *testing.T) {
			on := &topic{}
			core, gateway := start(t, on, t.TempDir(), good), start(t, on, t.TempDir(), "")
			core.step("published", 3, 0)
			gateway.step("published", 3, 0)
			on.records = append(on.records, tc.raw)
			gateway.step("refused", 3, 1)
			gateway.now = gateway.now.Add(2 * time.Minute)
			gateway.step("told once", 3, 1)
			if !strings.Contains(gateway.log.String(), tc.code) {
				t.Errorf("not %s:\n%s", tc.code, gateway.log.String())
			}
			core.step("refused", 3, 1)
			if replaced := len(on.records) == 3; replaced != tc.replaced || replaced && on.last() != string(recordOf(t, good)) {
				t.Errorf("%d records", len(on.records))
			}
			if gateway.kept() != string(recordOf(t, good)) {
				t.Error("the snapshot has changed")
			}
		})
	}
}

// Keys that a newer build has published are passed over, so that what was revoked with
// them is dead here as well. The record is kept as it is; a file must not have them.
func TestKeysOfLaterArePassedOver(t *testing.T) {
	later := strings.Replace(version(good, "9"), hashA, strings.Repeat("ab", 32), 1) + "newer: {deep: [1]}\n"
	later = strings.Replace(later, "    burst: 4\n", "    burst: 4\n    newer: 1\n", 1)
	on := &topic{}
	core, gateway := start(t, on, t.TempDir(), good), start(t, on, t.TempDir(), "")
	core.step("published", 3, 0)
	gateway.step("published", 3, 0)
	on.records = append(on.records, merchant.RecordForTest(9, later))
	core.step("a newer build", 9, 0)
	gateway.step("a newer build", 9, 0)
	gateway.now = gateway.now.Add(2 * time.Minute)
	gateway.step("told once", 9, 0)
	if gateway.directory.Current().Merchant("shop").KeyHashes[0] == hashA {
		t.Error("the revoked key is in force")
	}
	if n := strings.Count(gateway.log.String(), "passes over"); n != 1 || !strings.Contains(gateway.log.String(), "newer") {
		t.Errorf("told %d times:\n%s", n, gateway.log.String())
	}
	if gateway.kept() != on.last() || len(on.records) != 2 {
		t.Errorf("%d records; kept %q", len(on.records), gateway.kept())
	}
	again := start(t, on, gateway.dir, "")
	again.is("from the snapshot", 9, 0)
	if !strings.Contains(again.log.String(), "passes over") {
		t.Errorf("nobody was told:\n%s", again.log.String())
	}
	write(t, core.file, strings.Replace(later, "version: 9", "version: 10", 1))
	core.step("its file", 9, 1)
}

// A snapshot that is damaged takes no part, and is told and replaced.
func TestADamagedSnapshot(t *testing.T) {
	whole := string(recordOf(t, version(good, "4")))
	for name, tc := range map[string]struct{ text, code string }{
		"torn":          {whole[:len(whole)/2], "checksum_wrong"},
		"empty":         {"", "header_unreadable"},
		"a flipped bit": {strings.Replace(whole, "enabled: true", "enabled: frue", 1), "checksum_wrong"},
		"not valid":     {string(merchant.RecordForTest(4, "version: 4\nmerchants: 1\n")), "bad_key_or_value"},
	} {
		t.Run(name, func(t *testing.T) {
			on := &topic{gone: errors.New("gone")}
			dir := t.TempDir()
			write(t, filepath.Join(dir, "directory.snapshot"), tc.text)
			p := start(t, on, dir, "")
			p.is("damaged", 0, 1)
			if !strings.Contains(p.log.String(), tc.code) || !strings.Contains(p.log.String(), "directory.snapshot") {
				t.Errorf("not %s:\n%s", tc.code, p.log.String())
			}
			on.gone, on.records = nil, [][]byte{[]byte(whole)}
			p.step("fetched", 4, 1)
			if p.kept() != whole {
				t.Error("it was not replaced")
			}
		})
	}
}

// Whoever publishes knows first what is published.
func TestFilesAreRefused(t *testing.T) {
	on := &topic{records: [][]byte{recordOf(t, version(good, "4"))}}
	core := start(t, on, t.TempDir(), version(good, "4")+"# other\n")
	core.step("a version that another has published", 4, 1)
	if !strings.Contains(core.log.String(), "version_taken") {
		t.Errorf("nobody was told:\n%s", core.log.String())
	}
	write(t, core.file, strings.Replace(version(good, "5"), "burst: 4", "burst: 0", 1))
	core.step("not valid", 4, 2)
	on.bytesMax = len(good)
	write(t, core.file, version(good, "5"))
	core.step("too large", 4, 3)
	if !strings.Contains(core.log.String(), "record_too_large") || len(on.records) != 1 {
		t.Errorf("%d records; nobody was told:\n%s", len(on.records), core.log.String())
	}
	again := start(t, &topic{bytesMax: len(good)}, core.dir, "")
	again.File = core.file // another topic, which is to be filled again
	again.step("too large, also from the snapshot", 4, 1)
	on.bytesMax = 0
	write(t, core.file, version(good, "6"))
	core.step("not too large", 6, 3)
	newer := bytes.Replace(recordOf(t, version(good, "9")), []byte("format=1"), []byte("format=2"), 1) // of a later build
	on.records = append(on.records, newer)
	write(t, core.file, version(good, "8"))
	core.step("below what it cannot read", 6, 5)
	if on.last() != string(newer) {
		t.Errorf("what a later build has published is gone: %.80q", on.last())
	}
}

// The age is that of the last certainty, also behind a start.
func TestAge(t *testing.T) {
	on := &topic{}
	core := start(t, on, t.TempDir(), good)
	core.now = core.now.Add(time.Hour)
	if age := core.Age(); age != time.Hour {
		t.Errorf("without a snapshot: %s", age)
	}
	core.step("published", 3, 0)
	on.gone = errors.New("gone")
	core.now = core.now.Add(time.Minute)
	_ = core.Step(t.Context(), 0)
	if age := core.Age(); age != time.Minute {
		t.Errorf("gone for a minute: %s", age)
	}
	written := core.now.Add(-5 * time.Hour)
	if err := os.Chtimes(core.snapshot(), written, written); err != nil {
		t.Fatal(err)
	}
	again := start(t, on, core.dir, "")
	again.now = core.now
	if age := again.Age(); age != 5*time.Hour {
		t.Errorf("from a snapshot of five hours ago: %s", age)
	}
}

// A snapshot that cannot be written holds nothing up, and is written later.
func TestASnapshotThatCannotBeWritten(t *testing.T) {
	on := &topic{records: [][]byte{recordOf(t, good)}}
	dir := filepath.Join(t.TempDir(), "not there")
	p := start(t, on, dir, "")
	if err := p.Step(t.Context(), 0); err == nil || p.directory.Current().Version != 3 {
		t.Errorf("version %d, %v", p.directory.Current().Version, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p.step("written", 3, 0)
	if p.kept() != on.last() {
		t.Error("it is another one")
	}
}

// What is there is asked for without waiting for news: an empty board would cost each
// start a wait.
func TestOnlyNewsAreWaitedFor(t *testing.T) {
	p := start(t, &topic{records: [][]byte{recordOf(t, good), recordOf(t, version(good, "4"))}}, t.TempDir(), "")
	step := func() {
		t.Helper()
		if err := p.Step(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
	}
	step()
	step()
	step()
	p.now = p.now.Add(2 * time.Minute)
	step()
	step()
	step()
	if want := []time.Duration{0, 0, time.Second, 0, 0, time.Second}; !slices.Equal(p.board.waits, want) {
		t.Errorf("waited %v, want %v", p.board.waits, want)
	}
}

// Run tells an outage once, and its end.
func TestFollowerRuns(t *testing.T) {
	on := &topic{gone: errors.New("gone"), records: [][]byte{recordOf(t, good)}}
	p := start(t, on, t.TempDir(), "")
	for _, tc := range []struct {
		gone error
		want string
	}{{on.gone, "not confirmed"}, {nil, "confirmed again"}} {
		on.gone = tc.gone
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		p.board.asked = func() {
			if steps++; steps == 5 {
				cancel()
			}
		}
		if err := p.Follower.Run(ctx, time.Millisecond); err != nil {
			t.Error(err)
		}
		cancel()
		if n := strings.Count(p.log.String(), tc.want); n != 1 {
			t.Errorf("%q was told %d times:\n%s", tc.want, n, p.log.String())
		}
	}
	p.is("read", 3, 0)
}
