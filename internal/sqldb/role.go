package sqldb

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tallystick/tallystick/internal/fault"
)

// MakeRole makes a role that may log in, if there is none of that name, and gives it
// a password, if there is one: printable ASCII. The server gets a verifier of it and
// not the password itself, which some servers would log.
func MakeRole(ctx context.Context, p Postgres, role, password string) (err error) {
	op := "sqldb: make role " + role
	config, err := p.config("pg_catalog", false)
	if err != nil {
		return err
	}
	verifier := ""
	if password != "" {
		if verifier, err = scramVerifier(password); err != nil {
			return fault.Wrap(op, err)
		}
	}
	connecting, cancel := context.WithTimeout(ctx, config.ConnectTimeout)
	defer cancel()
	c, err := pgx.ConnectConfig(connecting, config)
	if err != nil {
		return classify(op, err)
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	var there bool
	if err := c.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)`, role).Scan(&there); err != nil {
		return classify(op, err)
	}
	query := `CREATE ROLE ` + pgx.Identifier{role}.Sanitize() + ` LOGIN`
	if there {
		if password == "" {
			return nil
		}
		query = `ALTER ROLE ` + pgx.Identifier{role}.Sanitize()
	}
	if verifier != "" {
		query += ` PASSWORD '` + verifier + `'` // base64 and $ alone
	}
	_, err = c.Exec(ctx, query)
	return classify(op, err)
}

// scramIterations is PostgreSQL's own number.
const scramIterations = 4096

// scramVerifier is what a server keeps of a password for SCRAM-SHA-256 (RFC 5803).
func scramVerifier(password string) (string, error) {
	for i := range len(password) {
		if password[i] < ' ' || password[i] > '~' {
			return "", &fault.Error{Kind: fault.Invalid, Field: "password", Code: "config_invalid", Fix: "use printable ASCII"}
		}
	}
	var salt [16]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return "", err
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt[:], scramIterations, sha256.Size)
	if err != nil {
		return "", err
	}
	keyed := func(what string) []byte {
		m := hmac.New(sha256.New, salted)
		m.Write([]byte(what))
		return m.Sum(nil)
	}
	stored := sha256.Sum256(keyed("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, b64(salt[:]), b64(stored[:]), b64(keyed("Server Key"))), nil
}
