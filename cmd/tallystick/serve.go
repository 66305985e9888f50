package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/fault"
)

type initCmd struct {
	Data       string `help:"Folder to make." required:"" placeholder:"DIR" type:"path"`
	SandboxURL string `help:"Where the sandbox PSP of the example directory is." default:"http://127.0.0.1:9090" placeholder:"URL"`
	UnlessMade bool   `help:"Leave a folder that was made before as it is, and say nothing is wrong."`
}

// Run makes the folder and says what to do next.
func (c *initCmd) Run() error {
	made, err := app.InitFor(c.Data, c.SandboxURL)
	if c.UnlessMade && fault.Is(err, fault.Conflict) {
		fmt.Printf("%s was made before, and is left as it is\n", c.Data)
		return nil
	}
	if err != nil {
		return err
	}
	keys := ""
	for _, a := range app.ExampleAccounts() {
		keys += fmt.Sprintf(" --account-file %s=%s", a, filepath.Join(made.Dir, app.SecretsDir, "psp-"+a+".key"))
	}
	fmt.Printf(`Made %[1]s: %[2]s, %[3]s and secrets/ (readable by you alone; back them up: another
code secret makes another code of every order).

API key of merchant %[4]s, shown this once:
  %[5]s

Next:
  pspsim --listen 127.0.0.1:9090%[6]s
  tallystick serve --data %[1]s
  curl -i http://127.0.0.1:8080/v1/payments -H "Authorization: Bearer %[5]s" \
    -H "Content-Type: application/json" -d '{"order_id":"mug-1","amount":1999,"currency":"CNY","subject":"Coffee mug"}'
`, made.Dir, app.ConfigFile, app.DirectoryFile, app.ExampleMerchant, made.APIKey, keys)
	return nil
}

type serveCmd struct {
	Data string `help:"Data folder, made by init." required:"" placeholder:"DIR" type:"path"`
	Role string `help:"Some of gateway, core, prepay and accounting, with commas between them, in the place of the key roles. They are apart only on bus: kafka." placeholder:"LIST"`
}

// Run serves until a signal.
func (c *serveCmd) Run(ctx context.Context) error {
	environ := os.Environ()
	if c.Role != "" {
		environ = append(environ, "TALLYSTICK_ROLES="+c.Role)
	}
	a, err := app.Open(ctx, c.Data, environ, os.Stderr)
	if err != nil {
		return err
	}
	a.Await(ctx)
	if err := a.Listen(); err != nil {
		_ = a.Close()
		return err
	}
	fmt.Printf("tallystick serves %s as %s\n", c.Data, a.Config.Roles)
	if a.Addr() != "" {
		fmt.Printf("  payments   http://%s/v1/payments\n", a.Addr())
	}
	fmt.Printf("  operators  http://%s/metrics\n", a.OperatorAddr())
	err = a.Run(ctx)
	if closeErr := a.Close(); err == nil {
		err = closeErr
	}
	return err
}
