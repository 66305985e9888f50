package app

import (
	"crypto/rand"
	_ "embed"
	"encoding/base32"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/fault"
)

// exampleConfig is the commented tallystick.yaml that init writes: every key with
// its default.
//
//go:embed tallystick.yaml
var exampleConfig string

// exampleDirectory is the directory.yaml that init writes: one merchant, and two
// accounts of the sandbox PSP.
//
//go:embed directory.yaml
var exampleDirectory string

// exampleSandbox is where its accounts' PSP is: a simulator on this machine.
const exampleSandbox = "http://127.0.0.1:9090"

// ExampleMerchant is the merchant of the directory that Init writes.
const ExampleMerchant = "demo-shop"

// ExampleAccounts are its channel accounts; each has a key of its own, of the
// same name.
func ExampleAccounts() []string { return []string{"sandbox-a", "sandbox-b"} }

// Initialised is what Init made, once.
type Initialised struct {
	Dir    string
	APIKey string // of ExampleMerchant; kept nowhere, only its hash is
}

// Init makes a data folder: configuration, directory and secrets (each 0600). A
// folder that has any of them is refused with fault.Conflict and left as it is:
// another code secret would make another code of every order.
func Init(dir string) (Initialised, error) { return InitFor(dir, "") }

// InitFor is Init with the sandbox PSP at another URL than a simulator's on this
// machine.
func InitFor(dir, sandboxURL string) (Initialised, error) {
	if sandboxURL == "" {
		sandboxURL = exampleSandbox
	}
	if u, err := url.Parse(sandboxURL); err != nil || u.Host == "" {
		return Initialised{}, &fault.Error{Kind: fault.Invalid, Op: "init", Field: "--sandbox-url", Code: "not_a_url", Fix: "give a URL such as " + exampleSandbox}
	}
	for _, name := range []string{ConfigFile, DirectoryFile, SecretsDir, StoresDir} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return Initialised{}, &fault.Error{Kind: fault.Conflict, Op: "init", Code: "exists", Fix: "use another --data, or keep what is there",
				Err: fmt.Errorf("%s is already there", filepath.Join(dir, name))}
		} else if !errors.Is(err, os.ErrNotExist) {
			return Initialised{}, fault.Wrap("init", err)
		}
	}
	secrets := filepath.Join(dir, SecretsDir)
	if err := os.MkdirAll(secrets, 0o700); err != nil {
		return Initialised{}, fault.Wrap("init", err)
	}
	names := []string{codeSecret, tokenPrefix + "1"}
	for _, a := range ExampleAccounts() {
		names = append(names, pspPrefix+a)
	}
	for _, name := range names {
		if err := writeSecret(secrets, name); err != nil {
			return Initialised{}, err
		}
	}
	key, err := newAPIKey()
	if err != nil {
		return Initialised{}, err
	}
	directory := strings.NewReplacer("{key_hash}", merchant.HashKey(key), exampleSandbox, sandboxURL).Replace(exampleDirectory)
	if err := writeNew(filepath.Join(dir, DirectoryFile), directory, 0o600); err != nil {
		return Initialised{}, err
	}
	if err := writeNew(filepath.Join(dir, ConfigFile), exampleConfig, 0o600); err != nil {
		return Initialised{}, err
	}
	// The folder itself is new as well.
	return Initialised{Dir: dir, APIKey: key}, fault.Wrap("init", syncFolders(filepath.Dir(filepath.Clean(dir))))
}

// newAPIKey makes 160 bits of randomness that say what they are.
func newAPIKey() (string, error) {
	var b [20]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fault.Wrap("API key", err)
	}
	return "tsk_" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:])), nil
}
