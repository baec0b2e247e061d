package image

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

func mapCommand(e *term.Env) *cli.Command {
	return &cli.Command{
		Name: "map", Usage: "tell which parts of a disk are where in its chain",
		ArgsUsage: "FILE", OnUsageError: term.UsageError,
		Flags: append([]cli.Flag{
			term.OutputFlag(), images.FormatFlag(), images.AllowFlag(), images.ShareFlag(),
			&cli.StringFlag{Name: "start-offset", Aliases: []string{"s"}, Usage: "begin at byte `OFFSET` of the disk"},
			&cli.StringFlag{Name: "max-length", Aliases: []string{"l"}, Usage: "tell of `BYTES` at most"},
		}, images.SourceCompat()...),
		Description: `Depth 0 is FILE, 1 its backing file, and so on.

   virt-rotate image map --output=json web.qcow2

` + images.ExitHelp,
		Action: images.Action(e, 1, 1, mapImage),
	}
}

// mapEntry is the JSON of a stretch; keys and their order are qemu-img's.
type mapEntry struct {
	start, length int64
	depth         int
	present       bool
	zero, data    bool
	offset        int64
}

func (m mapEntry) json() string {
	b := strconv.AppendInt([]byte(`{ "start": `), m.start, 10)
	b = strconv.AppendInt(append(b, `, "length": `...), m.length, 10)
	b = strconv.AppendInt(append(b, `, "depth": `...), int64(m.depth), 10)
	b = strconv.AppendBool(append(b, `, "present": `...), m.present)
	b = strconv.AppendBool(append(b, `, "zero": `...), m.zero)
	b = strconv.AppendBool(append(b, `, "data": `...), m.data)
	if m.offset != chain.NoHost {
		b = strconv.AppendInt(append(b, `, "offset": `...), m.offset, 10)
	}
	return string(append(b, '}'))
}

func mapImage(r *images.Run) error {
	from, to, err := mapRange(r)
	if err != nil {
		return err
	}
	nodes, err := r.Readable(r.Arg(0), r.Format())
	if err != nil {
		return err
	}
	w := bufio.NewWriter(r.Out)
	tell := mapJSON(w)
	if r.String("output") == "human" {
		tell = mapHuman(r, w, nodes)
	}
	none := true
	err = r.Store.Map(r.Ctx(), nodes, from, to, func(m chain.Mapping) error {
		none = false
		return tell(mapEntry{m.Start, m.Length, m.Depth, m.Present, m.Zero, m.Data, m.Host})
	})
	if err == nil && none {
		err = tell(mapEntry{start: from, offset: chain.NoHost})
	}
	if err == nil && r.String("output") == "json" {
		fmt.Fprintln(w, "]")
	}
	return errors.Join(err, w.Flush())
}

// mapRange is what -s and -l ask for.
func mapRange(r *images.Run) (from, to int64, err error) {
	to = math.MaxInt64
	if text := r.String("start-offset"); text != "" {
		if from, err = formats.ParseSize(text); err != nil {
			return 0, 0, term.Usagef("--start-offset=%s: %w", text, err)
		}
	}
	if text := r.String("max-length"); text != "" {
		n, err := formats.ParseSize(text)
		if err != nil {
			return 0, 0, term.Usagef("--max-length=%s: %w", text, err)
		}
		if n < to-from {
			to = from + n
		}
	}
	return from, to, nil
}

func mapJSON(w *bufio.Writer) func(mapEntry) error {
	before := "["
	return func(m mapEntry) error {
		fmt.Fprint(w, before, m.json())
		before = ",\n"
		return nil
	}
}

// errNoPlace is qemu-img's refusal, too: the human format tells offsets only.
var errNoPlace = errors.New("it has compressed clusters, which are at no offset of the disk; --output=json tells of them")

// mapHuman writes what can be read from files at an offset.
func mapHuman(r *images.Run, w *bufio.Writer, nodes []chain.Node) func(mapEntry) error {
	names := displayNames(r.Arg(0), nodes)
	fmt.Fprintf(w, "%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File")
	return func(m mapEntry) error {
		name := names[m.depth]
		switch {
		case m.data && m.offset == chain.NoHost:
			return fmt.Errorf("%s: %w", name, errNoPlace)
		case m.data && !m.zero:
			fmt.Fprintf(w, "%-16s%-16s%-16s%s\n", hexText(m.start), hexText(m.length), hexText(m.offset), term.Printable(name))
		}
		return nil
	}
}

// hexText is how C writes %#x.
func hexText(n int64) string {
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", n)
}

// displayNames is how QEMU calls the images of a chain, the uppermost first.
func displayNames(name string, nodes []chain.Node) []string {
	var names []string
	for i := len(nodes) - 1; i >= 0; i-- {
		names = append(names, name)
		name = nameBelow(name, nodes[i].Image.Backing)
	}
	return names
}
