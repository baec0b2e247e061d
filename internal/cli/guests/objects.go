package guests

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// listed writes a list as its elements are found, for there may be millions: as text, for which
// do gets no list, or as JSON, with what stands before it.
func (r *fileRun) listed(key string, head []pair, do func(io.Writer, *objects) error) error {
	out := bufio.NewWriter(r.Out)
	if r.String("output") != "json" {
		return errors.Join(do(out, nil), out.Flush())
	}
	list := &objects{out: out}
	list.begin(key, head)
	err := do(out, list)
	list.end()
	return errors.Join(err, out.Flush())
}

// objects is a list in a JSON object, whose last key it is, as term.JSON writes it.
type objects struct {
	out   io.Writer
	shown int
}

// A pair is a key and its text.
type pair struct{ key, value string }

func (o *objects) begin(key string, head []pair) {
	fmt.Fprintf(o.out, "{\n    \"version\": %d,\n", term.JSONVersion)
	for _, p := range head {
		text, _ := json.Marshal(p.value) // a string always can be
		fmt.Fprintf(o.out, "    %q: %s,\n", p.key, text)
	}
	fmt.Fprintf(o.out, "    %q: [", key)
}

func (o *objects) add(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	comma := ","
	if o.shown == 0 {
		comma = ""
	}
	o.shown++
	_, err = fmt.Fprintf(o.out, "%s\n        %s", comma, text)
	return err
}

func (o *objects) end() {
	if o.shown > 0 {
		fmt.Fprint(o.out, "\n    ")
	}
	fmt.Fprint(o.out, "]\n}\n")
}
