package term

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
)

// OutputFlag is --output of every command that prints.
func OutputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Usage: "`FORMAT`: human or json", Value: "human"}
}

// Print writes v as JSON, or as human writes it.
func (e *Env) Print(c *cli.Context, v any, human func(io.Writer)) error {
	return e.print(c, v, JSON, human)
}

// PrintAsQemuImg is Print for what has exactly qemu-img's JSON, and no version of ours.
func (e *Env) PrintAsQemuImg(c *cli.Context, v any, human func(io.Writer)) error {
	return e.print(c, v, indented, human)
}

func (e *Env) print(c *cli.Context, v any, inJSON func(any) ([]byte, error), human func(io.Writer)) error {
	switch format := c.String("output"); format {
	case "human":
		human(e.Out)
		return nil
	case "json":
		data, err := inJSON(v)
		if err == nil {
			_, err = e.Out.Write(data)
		}
		return err
	default:
		return Usagef("--output=%s: want human or json", format)
	}
}

// JSONVersion is that of all JSON objects that are printed. It changes when a key goes, or
// comes to mean something else; new keys may come without.
const JSONVersion = 1

// JSON writes v as it is printed: an object begins with its version.
func JSON(v any) ([]byte, error) {
	data, err := indented(v)
	rest, isObject := bytes.CutPrefix(data, []byte("{\n"))
	if err != nil || !isObject {
		return data, err
	}
	return append(fmt.Appendf(nil, "{\n    \"version\": %d,\n", JSONVersion), rest...), nil
}

func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "    ")
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// CheckOutput refuses a wrong --output before anything is done.
func CheckOutput(c *cli.Context) error {
	if f := c.String("output"); f != "human" && f != "json" {
		return Usagef("--output=%s: want human or json", f)
	}
	return nil
}
