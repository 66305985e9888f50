package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/internal/wholefile"
)

// ManifestFile says, in a backup, what is in it.
const ManifestFile = "backup.yaml"

// manifestFormat is raised when an older build could not restore what is written.
const manifestFormat = 1

// Manifest is what a backup says of itself.
type Manifest struct {
	Format int          `yaml:"format"`
	MadeAt time.Time    `yaml:"made_at"` // the moment, within a second, that the stores are of
	Files  []BackupFile `yaml:"files"`
}

// BackupFile is one file of a backup, by its path in the data folder.
type BackupFile struct {
	Path   string `yaml:"path"`
	Bytes  int64  `yaml:"bytes"`
	SHA256 string `yaml:"sha256"`
}

// Bytes is the size of all files.
func (m Manifest) Bytes() (n int64) {
	for _, f := range m.Files {
		n += f.Bytes
	}
	return n
}

// storeFiles are the databases of a folder.
func storeFiles() []string { return []string{"intake.db", "core.db", "prepay.db", "accounting.db"} }

// Backup copies a data folder, served or not, as it is at one moment, to a folder
// that does not exist yet. It is there as a whole or not at all. Secrets are
// left out unless they are asked for: who has them and the stores has everything.
func Backup(ctx context.Context, dir, to string, withSecrets bool) (m Manifest, err error) {
	const op = "backup"
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return m, &fault.Error{Kind: fault.Conflict, Op: op, Field: "--to", Code: "exists", Fix: "name a folder that does not exist yet",
			Err: fmt.Errorf("%s is already there", to)}
	}
	if _, err := os.Stat(filepath.Join(dir, StoresDir)); err != nil {
		return m, &fault.Error{Kind: fault.Invalid, Op: op, Field: "--data", Code: "no_stores", Fix: "give a folder that was served", Err: err}
	}
	work, err := os.MkdirTemp(filepath.Dir(to), "."+filepath.Base(to)+"-")
	if err != nil {
		return m, fault.Wrap(op, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }() // what was renamed is no longer there
	m = Manifest{Format: manifestFormat, MadeAt: time.Now().UTC().Truncate(time.Second)}
	if err := os.Mkdir(filepath.Join(work, StoresDir), 0o700); err != nil {
		return m, fault.Wrap(op, err)
	}
	var copies []sqldb.Copy
	var files []string
	for _, f := range storeFiles() {
		f = filepath.Join(StoresDir, f)
		copies = append(copies, sqldb.Copy{From: filepath.Join(dir, f), To: filepath.Join(work, f)})
		files = append(files, f)
	}
	if err := sqldb.Backup(ctx, copies); err != nil {
		return m, fault.Wrap(op, err)
	}
	plain := []string{ConfigFile, DirectoryFile}
	if withSecrets {
		keys, err := secretFiles(dir)
		if err != nil {
			return m, fault.Wrap(op, err)
		}
		plain = append(plain, keys...)
	}
	for _, f := range plain {
		if err := copyFile(filepath.Join(dir, f), filepath.Join(work, f)); err != nil {
			return m, fault.Wrap(op, err)
		}
	}
	for _, f := range append(plain, files...) {
		entry, err := describe(work, f)
		if err != nil {
			return m, fault.Wrap(op, err)
		}
		m.Files = append(m.Files, entry)
	}
	text, err := yaml.Marshal(m)
	if err != nil {
		return m, fault.Wrap(op, err)
	}
	if err := writeNew(filepath.Join(work, ManifestFile), string(text), 0o600); err != nil {
		return m, err
	}
	return m, fault.Wrap(op, errors.Join(os.Rename(work, to), syncFolders(to, filepath.Dir(to))))
}

// secretFiles are the keys and passwords of a folder, by their paths in it.
func secretFiles(dir string) (files []string, err error) {
	for _, ext := range []string{keyFileExt, passwordExt} {
		found, err := filepath.Glob(filepath.Join(dir, SecretsDir, "*"+ext))
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			files = append(files, filepath.Join(SecretsDir, filepath.Base(f)))
		}
	}
	return files, nil
}

// Restore makes a data folder of a backup: one that does not exist yet, or that
// has nothing but its secrets. The backup is held against its manifest, and the
// folder is opened once, as serving it would, before it is there: with another
// code secret, or with stores that do not belong together, nothing is made.
func Restore(ctx context.Context, from, dir string, environ []string) (m Manifest, err error) {
	const op = "restore"
	if m, err = readManifest(from); err != nil {
		return m, err
	}
	for _, name := range []string{ConfigFile, DirectoryFile, StoresDir} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return m, &fault.Error{Kind: fault.Conflict, Op: op, Field: "--data", Code: "exists", Fix: "name a folder that has nothing but secrets/, or none",
				Err: fmt.Errorf("%s is already there", filepath.Join(dir, name))}
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m, fault.Wrap(op, err)
	}
	work, err := os.MkdirTemp(dir, ".restore-")
	if err != nil {
		return m, fault.Wrap(op, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	for _, f := range m.Files {
		if err := copyFile(filepath.Join(from, f.Path), filepath.Join(work, f.Path)); err != nil {
			return m, fault.Wrap(op, err)
		}
	}
	moved := []string{ConfigFile, DirectoryFile, StoresDir} // the stores last: with them the folder is one
	if _, err := os.Stat(filepath.Join(dir, SecretsDir)); err == nil {
		if err := useSecrets(dir, work); err != nil {
			return m, fault.Wrap(op, err)
		}
	} else if _, err := os.Stat(filepath.Join(work, SecretsDir)); err == nil {
		moved = append([]string{SecretsDir}, moved...)
	} else if _, given := lookup(environ)(envName(codeSecret)); !given {
		return m, &fault.Error{Kind: fault.Invalid, Op: op, Field: "--data", Code: "no_secrets",
			Fix: "put the installation's secrets/ into " + dir + " first: this backup has none"}
	}
	a, err := Open(ctx, work, environ, io.Discard)
	if err != nil {
		return m, fault.Wrap(op, err)
	}
	if err := a.Close(); err != nil {
		return m, fault.Wrap(op, err)
	}
	for _, name := range moved {
		if err := os.Rename(filepath.Join(work, name), filepath.Join(dir, name)); err != nil {
			return m, fault.Wrap(op, err)
		}
	}
	return m, fault.Wrap(op, syncFolders(dir))
}

// useSecrets puts the secrets that a folder has in the place of those of a backup.
func useSecrets(dir, work string) error {
	if err := os.RemoveAll(filepath.Join(work, SecretsDir)); err != nil {
		return err
	}
	keys, err := secretFiles(dir)
	for _, k := range keys {
		err = errors.Join(err, copyFile(filepath.Join(dir, k), filepath.Join(work, k)))
	}
	return err
}

// readManifest reads a backup's manifest and holds every file against it.
func readManifest(from string) (m Manifest, err error) {
	bad := func(code, fix string, err error) error {
		return &fault.Error{Kind: fault.Invalid, Op: "restore", Field: "--from", Code: code, Fix: fix, Err: err}
	}
	text, err := os.ReadFile(filepath.Join(from, ManifestFile)) //nolint:gosec // the operator's own
	if err != nil {
		return m, bad("no_backup", "give a folder that `tallystick backup` made", err)
	}
	if err := yaml.UnmarshalWithOptions(text, &m, yaml.Strict()); err != nil {
		return m, bad("manifest_unreadable", "use another backup", err)
	}
	if m.Format != manifestFormat {
		return m, bad("format", "use the build that made it, or a newer one", fmt.Errorf("it has format %d, this build reads %d", m.Format, manifestFormat))
	}
	for _, f := range storeFiles() {
		if !slices.ContainsFunc(m.Files, func(b BackupFile) bool { return b.Path == filepath.Join(StoresDir, f) }) {
			return m, bad("incomplete", "use another backup", fmt.Errorf("it lists no %s", f))
		}
	}
	for _, f := range m.Files {
		if !filepath.IsLocal(f.Path) {
			return m, bad("manifest_unreadable", "use another backup", fmt.Errorf("%q is outside the backup", f.Path))
		}
		have, err := describe(from, f.Path)
		if err == nil && have != f {
			err = fmt.Errorf("%s has %d bytes and SHA-256 %s, the manifest says %d and %s", f.Path, have.Bytes, have.SHA256, f.Bytes, f.SHA256)
		}
		if err != nil {
			return m, bad("damaged", "use another backup", err)
		}
	}
	return m, nil
}

func describe(dir, path string) (BackupFile, error) {
	f, err := os.Open(filepath.Join(dir, path)) //nolint:gosec // the operator's own
	if err != nil {
		return BackupFile{}, err
	}
	defer f.Close() //nolint:errcheck // it was read
	h := sha256.New()
	n, err := io.Copy(h, f)
	return BackupFile{Path: path, Bytes: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

// copyFile copies and flushes; what it makes is for its owner alone.
func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	in, err := os.Open(from) //nolint:gosec // the operator's own
	if err != nil {
		return err
	}
	defer in.Close()                                                      //nolint:errcheck // it was read
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the operator's own
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// syncFolders makes names durable.
func syncFolders(dirs ...string) error {
	var errs []error
	for _, d := range dirs {
		errs = append(errs, wholefile.SyncFolder(strings.TrimSuffix(d, "/")))
	}
	return errors.Join(errs...)
}
