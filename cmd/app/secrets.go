package app

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// Secrets are the keys and passwords of an installation. A key is a file of 64
// hexadecimal digits in the secrets folder, a password one of text; readable by its
// owner alone, or an environment variable that takes its place.
type Secrets struct {
	dir string
	env func(string) (string, bool)
}

// The names of secrets: the code secret, client token keys by key id, PSP keys by
// the directory's key_name, and passwords.
const (
	codeSecret  = "code"
	kafkaSecret = "kafka"
	redisSecret = "redis"
	tokenPrefix = "token-"
	pspPrefix   = "psp-"
	keyFileExt  = ".key"
	passwordExt = ".password"
	envSecret   = "TALLYSTICK_SECRET_" //nolint:gosec // the name of a variable
)

// NewSecrets reads from a folder and an environment.
func NewSecrets(dir string, env func(string) (string, bool)) Secrets { return Secrets{dir, env} }

// envName is the variable that takes the place of a secret's file.
func envName(name string) string {
	return envSecret + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func refuseSecret(name, code, fix string, err error) error {
	return &fault.Error{Kind: fault.Invalid, Op: "secret " + name, Code: code, Fix: fix, Err: err}
}

// text is a secret as it is written. make is how one comes to be.
func (s Secrets) text(name, ext, make string) (string, error) {
	if text, given := s.env(envName(name)); given {
		return text, nil
	}
	path := filepath.Join(s.dir, name+ext)
	info, err := os.Stat(path)
	if err != nil {
		return "", refuseSecret(name, "missing", fmt.Sprintf("%s, or set %s", make, envName(name)), err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", refuseSecret(name, "readable_by_others", "chmod 600 "+path, fmt.Errorf("%s has mode %o", path, info.Mode().Perm()))
	}
	b, err := os.ReadFile(path) //nolint:gosec // the operator's own folder
	if err != nil {
		return "", refuseSecret(name, "unreadable", "make it readable for this user", err)
	}
	return string(b), nil
}

func (s Secrets) read(name string) ([]byte, error) {
	text, err := s.text(name, keyFileExt, "run `tallystick init`")
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != ids.SecretLen {
		return nil, refuseSecret(name, "malformed", "64 hexadecimal digits are expected", fmt.Errorf("%d characters", len(strings.TrimSpace(text))))
	}
	return key, nil
}

// passwordBytesMax bounds a password.
const passwordBytesMax = 1024

// password is a secret that somebody else made: a line of text.
func (s Secrets) password(name string) (string, error) {
	text, err := s.text(name, passwordExt, fmt.Sprintf("write it into %s%s in the secrets folder", name, passwordExt))
	if err != nil {
		return "", err
	}
	text = strings.TrimRight(text, "\r\n")
	if text == "" || len(text) > passwordBytesMax || strings.ContainsAny(text, "\r\n\x00") {
		return "", refuseSecret(name, "malformed", fmt.Sprintf("one line of at most %d bytes is expected", passwordBytesMax), fmt.Errorf("%d bytes", len(text)))
	}
	return text, nil
}

func (s Secrets) passwordIfAny(name string) (string, error) {
	text, err := s.password(name)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return text, err
}

// KafkaPassword is the password of kafka.sasl.username.
func (s Secrets) KafkaPassword() (string, error) { return s.password(kafkaSecret) }

// Code is the code secret.
func (s Secrets) Code() (*ids.Secret, error) {
	key, err := s.read(codeSecret)
	if err != nil {
		return nil, err
	}
	return ids.NewSecret(key)
}

// PSP is the key that a channel account names.
func (s Secrets) PSP(keyName string) ([]byte, error) { return s.read(pspPrefix + keyName) }

// Password is that of an area's user in PostgreSQL; empty if there is none: users
// may be known by certificates, or by where they come from.
func (s Secrets) Password(role Role) (string, error) {
	return s.passwordIfAny("postgres-" + string(role))
}

// RedisPassword is that of redis.username; empty if there is none.
func (s Secrets) RedisPassword() (string, error) { return s.passwordIfAny(redisSecret) }

// Tokens are all client token keys by key id; the newest signs.
func (s Secrets) Tokens() (map[string][]byte, error) {
	names := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(s.dir, tokenPrefix+"*"+keyFileExt))
	if err != nil {
		return nil, fault.Wrap("secrets", err)
	}
	for _, f := range files {
		names[strings.TrimSuffix(filepath.Base(f), keyFileExt)] = true
	}
	if _, given := s.env(envName(tokenPrefix + "1")); given {
		names[tokenPrefix+"1"] = true
	}
	if len(names) == 0 {
		names[tokenPrefix+"1"] = true // so that the error names what is missing
	}
	out := map[string][]byte{}
	for name := range names {
		key, err := s.read(name)
		if err != nil {
			return nil, err
		}
		out[strings.TrimPrefix(name, tokenPrefix)] = key
	}
	return out, nil
}

// newestKey is the key id that signs: the longest, and of those the last as text.
// So 10 comes after 9, and 20261125 after 20261124 and after 1.
func newestKey(keys map[string][]byte) string {
	var kids []string
	for kid := range keys {
		kids = append(kids, kid)
	}
	return slices.MaxFunc(kids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
}

// writeSecret makes a secret that does not exist yet.
func writeSecret(dir, name string) error {
	key := make([]byte, ids.SecretLen)
	if _, err := rand.Read(key); err != nil {
		return fault.Wrap("make secret", err)
	}
	return writeNew(filepath.Join(dir, name+keyFileExt), hex.EncodeToString(key)+"\n", 0o600)
}

// writeNew writes a file that must not exist, and syncs it and its folder: a name
// that is only in memory is gone with the power, however well the file was synced.
func writeNew(path, content string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) //nolint:gosec // the operator's own folder
	if err != nil {
		return fault.Wrap("write", err)
	}
	if _, err := f.WriteString(content); err != nil {
		_ = f.Close()
		return fault.Wrap("write "+path, err)
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return fault.Wrap("sync "+path, err)
	}
	if err := f.Close(); err != nil {
		return fault.Wrap("close "+path, err)
	}
	return fault.Wrap("sync the folder of "+path, syncFolders(filepath.Dir(path)))
}
