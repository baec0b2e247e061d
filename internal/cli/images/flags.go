package images

import (
	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// ExitHelp tells of the exit statuses in help texts.
const ExitHelp = `Exit status:
   0  done
   1  failed, or interrupted; every image is valid
   2  wrong usage
   4  refused because it would not be safe; nothing was changed`

// FormatFlag is -f of the image that is looked at.
func FormatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: FormatHelp}
}

// AllowFlag is --allow of all commands that follow backing names.
func AllowFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "allow", Usage: "backing files may be in `DIR`, too; may be repeated"}
}

// ScanFlag and IgnoreFlag are of commands that ask who builds on an image.
func ScanFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "scan", Usage: "images in `DIR` and below it may build on the layers concerned; may be repeated"}
}

// IgnoreFlag is --ignore; see ScanFlag.
func IgnoreFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "ignore", Usage: "`FILE`, or what is below that directory, does not build on the layers concerned, though that cannot be seen; may be repeated"}
}

// ShareFlag is -U of commands that read images.
func ShareFlag() cli.Flag {
	return &cli.BoolFlag{Name: "force-share", Aliases: []string{"U"}, Usage: "read images that another process writes to, too: what is read can be of several moments"}
}

// WriteFlags are those of all commands that write.
func WriteFlags() []cli.Flag {
	return []cli.Flag{
		term.OutputFlag(),
		&cli.BoolFlag{Name: "dry-run", Usage: "tell what would be done, change nothing"},
		&cli.BoolFlag{Name: "progress", Aliases: []string{"p"}, Usage: "show progress each second, also when it goes to a log"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "tell nothing but errors"},
	}
}
