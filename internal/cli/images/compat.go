package images

import (
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// Options of qemu-img that scripts say, and that mean nothing here or cannot be: they are
// not told of in help texts, but in docs/image.md.

// cacheModes are those of QEMU. What has to be durable is synced here whatever is said.
var cacheModes = []string{"none", "writeback", "writethrough", "directsync", "unsafe"}

func hidden(name string, short ...string) cli.Flag {
	return &cli.StringFlag{Name: name, Aliases: short, Hidden: true}
}

// SourceCompat are hidden options of commands that read images.
func SourceCompat() []cli.Flag {
	return []cli.Flag{hidden("source-cache", "T"), hidden("object"), &cli.BoolFlag{Name: "image-opts", Hidden: true}}
}

// TargetCompat are hidden options of commands that write to images.
func TargetCompat() []cli.Flag {
	return []cli.Flag{hidden("cache", "t"), hidden("object"), &cli.BoolFlag{Name: "image-opts", Hidden: true}}
}

// RateFlag is -r of commands that copy.
func RateFlag() cli.Flag {
	return &cli.StringFlag{Name: "rate-limit", Aliases: []string{"r"}, Usage: "copy `BYTES` a second at most"}
}

// checkCompat looks at what such options say.
func checkCompat(c *cli.Context) error {
	for _, name := range []string{"cache", "source-cache"} {
		if c.IsSet(name) && !slices.Contains(cacheModes, c.String(name)) {
			return term.Usagef("--%s %s: want none, writeback, writethrough, directsync or unsafe", name, c.String(name))
		}
	}
	switch {
	case c.Bool("image-opts"), c.Bool("target-image-opts"):
		return term.Usagef("--image-opts: options of QEMU's drivers are not understood here; name the file, and its format with -f")
	case c.IsSet("object"):
		return term.Usagef("--object: encrypted images are not read or written here, so that there is no secret to be told")
	}
	if text := c.String("coroutines"); text != "" {
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 16 {
			return term.Usagef("-m %s: want 1 to 16", text)
		}
	}
	return nil
}

// rateOf is what -r says, in bytes a second; 0 for no limit.
func rateOf(c *cli.Context) (int64, error) {
	if !c.IsSet("rate-limit") {
		return 0, nil
	}
	n, err := formats.ParseSize(c.String("rate-limit"))
	if err == nil && n < 1 {
		err = strconv.ErrRange
	}
	if err != nil {
		return 0, term.Usagef("-r %s: %w", c.String("rate-limit"), err)
	}
	return n, nil
}
