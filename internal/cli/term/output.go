package term

import (
	"encoding/json"
	"io"

	"github.com/urfave/cli/v2"
)

// OutputFlag is --output of every command that prints.
func OutputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Usage: "`FORMAT`: human or json", Value: "human"}
}

// Print writes v as JSON, or as human writes it.
func (e *Env) Print(c *cli.Context, v any, human func(io.Writer)) error {
	switch format := c.String("output"); format {
	case "human":
		human(e.Out)
		return nil
	case "json":
		enc := json.NewEncoder(e.Out)
		enc.SetIndent("", "    ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	default:
		return Usagef("--output=%s: want human or json", format)
	}
}

// CheckOutput refuses a wrong --output before anything is done.
func CheckOutput(c *cli.Context) error {
	if f := c.String("output"); f != "human" && f != "json" {
		return Usagef("--output=%s: want human or json", f)
	}
	return nil
}
