package merchant

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/strictyaml"
	"github.com/tallystick/tallystick/internal/wholefile"
)

// recordFormat is what this build writes and reads.
const recordFormat = 1

// headerBytesMax is more than the first line of a record takes.
const headerBytesMax = 160

// header is the first line of a record: a comment, so that the record is a
// directory file as well.
var header = regexp.MustCompile(`^# tallystick directory format=([0-9]{1,9}) version=([0-9]{1,19}) sha256=([0-9a-f]{64})$`)

// Record is one version of the directory as it travels and is kept: a line that says
// which one it is, and the text of the file that it was written in, byte for byte.
type Record struct {
	Version int64
	Sum     string // SHA-256 of the text, hexadecimal
	bytes   []byte // the line and the text
	text    []byte
}

// newRecord makes the record of a valid file.
func newRecord(version int64, text []byte) *Record {
	sum := sha256.Sum256(text)
	r := &Record{Version: version, Sum: hex.EncodeToString(sum[:])}
	r.bytes = fmt.Appendf(nil, "# tallystick directory format=%d version=%d sha256=%s\n", recordFormat, version, r.Sum)
	n := len(r.bytes)
	r.bytes = append(r.bytes, text...)
	r.text = r.bytes[n:]
	return r
}

// parseRecord reads a record, and holds the text against its checksum; it does not
// look what is in it. Errors are fault.Invalid: header_unreadable, format_unknown,
// checksum_wrong. Of a format of later builds there is the version as well. The record
// keeps raw.
func parseRecord(raw []byte) (*Record, error) {
	bad := func(code, format string, args ...any) error {
		return &fault.Error{Kind: fault.Invalid, Op: "directory", Code: code, Err: fmt.Errorf(format, args...)}
	}
	line, _, ended := bytes.Cut(raw[:min(len(raw), headerBytesMax)], []byte("\n"))
	m := header.FindSubmatch(line)
	if !ended || m == nil {
		return nil, bad("header_unreadable", "the first line is not that of a directory")
	}
	version, err := strconv.ParseInt(string(m[2]), 10, 64)
	if err != nil {
		return nil, bad("header_unreadable", "version: %w", err)
	}
	if string(m[1]) != strconv.Itoa(recordFormat) {
		return &Record{Version: version}, bad("format_unknown", "it has format %s, this build knows %d", m[1], recordFormat)
	}
	text := raw[len(line)+1:]
	sum := sha256.Sum256(text)
	if hex.EncodeToString(sum[:]) != string(m[3]) {
		return nil, bad("checksum_wrong", "version %d has %d bytes that are not those it was made with", version, len(text))
	}
	return &Record{Version: version, Sum: string(m[3]), bytes: raw, text: text}, nil
}

// same reports whether two records are one.
func (r *Record) same(other *Record) bool {
	return other != nil && r.Version == other.Version && r.Sum == other.Sum
}

// snapshot reads what is in the record, as a directory file is read, but for keys that a
// newer build may have published: they are passed over, and a key that was revoked in that
// version is dead here as well. beyond names the first of them. name is for errors.
func (r *Record) snapshot(name string) (s *Snapshot, beyond, err error) {
	s, beyond = parse(name, r.text, strictyaml.Decode)
	if beyond != nil {
		if s, err = parse(name, r.text, strictyaml.DecodeKnown); err != nil {
			return nil, nil, err
		}
	}
	if s.Version != r.Version {
		return nil, nil, &fault.Error{Kind: fault.Invalid, Op: name, Field: "version", Code: "version_wrong",
			Err: fmt.Errorf("it is %d, and %d in the first line", s.Version, r.Version)}
	}
	return s, beyond, nil
}

// loadRecord reads a snapshot file; fs.ErrNotExist if there is none. See Record.snapshot.
func loadRecord(path string) (r *Record, s *Snapshot, beyond, err error) {
	raw, err := readAtMost(path, FileBytesMax+headerBytesMax)
	if err != nil {
		return nil, nil, nil, err
	}
	r, err = parseRecord(raw)
	if err != nil {
		return nil, nil, nil, fault.Wrap(path, err)
	}
	s, beyond, err = r.snapshot(path)
	return r, s, beyond, err
}

// save writes a snapshot file as a whole. Several processes may write it at once.
func (r *Record) save(path string) error { return wholefile.Write(path, r.bytes) }
