package guests

import (
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/filetree"
	"github.com/virt-rotate/virt-rotate/internal/guestfs"
)

func lsCommand(e *term.Env) *cli.Command {
	const usage = "DOMAIN@SNAPSHOT[:/PATH]"
	return &cli.Command{
		Name: "ls", Usage: "list files of a snapshot",
		ArgsUsage: usage, OnUsageError: term.UsageError, UseShortOptionHandling: true,
		Flags: append([]cli.Flag{term.OutputFlag(),
			&cli.BoolFlag{Name: "l", Usage: "long: mode, links, owner, group, size, time of the last write, and where a link leads"},
			&cli.BoolFlag{Name: "R", Usage: "with all that is below, each with its path"}}, filesFlags()...),
		Description: `   virt-rotate ls web@latest:/etc
   virt-rotate ls -lR web@yesterday:/var/www
   virt-rotate ls --host-kernel --filesystem vda1 web@-2:/

Names come from the guest, whom nobody need trust: what is not printable in them is
escaped, as in \n and \x1b, and so is a backslash. JSON has them as they are, and in
Base64 besides where they are no UTF-8. Owners are numbers: their names are the guest's.

` + filesHelp + snapshotHelp + images.ExitHelp,
		Action: filesAction(e, usage, func(n int) bool { return n == 1 }, listFiles),
	}
}

// A listedFile is the JSON of a file.
type listedFile struct {
	Path       string    `json:"path"`
	PathBase64 string    `json:"path-base64,omitempty"` // where it is no UTF-8
	Type       string    `json:"type"`
	Mode       string    `json:"mode"` // octal
	Links      uint64    `json:"links"`
	UID        uint32    `json:"uid"`
	GID        uint32    `json:"gid"`
	Size       int64     `json:"size"`
	Time       time.Time `json:"time"`
	Target     string    `json:"target,omitempty"` // of a link
	TargetB64  string    `json:"target-base64,omitempty"`
}

// A listReport is the JSON of ls.
type listReport struct {
	Domain   string       `json:"domain"`
	Snapshot string       `json:"snapshot"` // as it was named
	Files    []listedFile `json:"files"`
}

func listFiles(r *fileRun) error {
	p, err := parseGuestPath(r.Arg(0))
	if err != nil {
		return err
	}
	return withFiles(r.Run, "", []wantedState{{p.domain, p.snapshot, r.StringSlice("disk")}}, func(views []*guestfs.View) error {
		return r.listed("files", []pair{{"domain", p.domain}, {"snapshot", p.snapshot}}, func(out io.Writer, list *objects) error {
			return filetree.New(views[0].Root).Walk(r.Ctx(), p.path, r.Bool("R"), func(e *filetree.Entry) error {
				if list != nil {
					return list.add(newListedFile(e))
				}
				return r.fileText(out, e)
			}, r.fail)
		})
	})
}

// fileText is one line of ls.
func (r *fileRun) fileText(w io.Writer, e *filetree.Entry) error {
	name := e.Name()
	if r.Bool("R") {
		name = e.Path
	}
	line := filetree.Quote(name)
	if r.Bool("l") {
		line = fmt.Sprintf("%s %3d %5d %5d %11d %s %s", modeText(e.Mode), e.Links, e.UID, e.GID, e.Size, e.Time.Local().Format("2006-01-02 15:04:05"), line)
		if e.Link != "" {
			line += " -> " + filetree.Quote(e.Link)
		}
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

func newListedFile(e *filetree.Entry) listedFile {
	return listedFile{
		Path: e.Path, PathBase64: base64Of(e.Path), Type: typeText(e.Mode), Mode: fmt.Sprintf("%04o", octal(e.Mode)),
		Links: e.Links, UID: e.UID, GID: e.GID, Size: e.Size, Time: e.Time.UTC(), Target: e.Link, TargetB64: base64Of(e.Link),
	}
}

// base64Of is for names that JSON cannot have as they are; "" for others.
func base64Of(s string) string {
	if utf8.ValidString(s) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}

// typeText is the type of a file in a word.
func typeText(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "file"
	case m.IsDir():
		return "directory"
	case m&fs.ModeSymlink != 0:
		return "link"
	case m&fs.ModeCharDevice != 0:
		return "character-device"
	case m&fs.ModeDevice != 0:
		return "block-device"
	case m&fs.ModeNamedPipe != 0:
		return "fifo"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return "unknown"
}

// octal is a mode as chmod has it.
func octal(m fs.FileMode) uint32 {
	n := uint32(m.Perm())
	for bit, of := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			n |= of
		}
	}
	return n
}

// modeText is a mode as ls has it.
func modeText(m fs.FileMode) string {
	kinds := map[string]string{"file": "-", "directory": "d", "link": "l", "character-device": "c", "block-device": "b", "fifo": "p", "socket": "s", "unknown": "?"}
	text := []byte(m.Perm().String())
	text[0] = kinds[typeText(m)][0]
	for _, s := range []struct {
		bit  fs.FileMode
		at   int
		x, n byte
	}{{fs.ModeSetuid, 3, 's', 'S'}, {fs.ModeSetgid, 6, 's', 'S'}, {fs.ModeSticky, 9, 't', 'T'}} {
		switch {
		case m&s.bit == 0:
		case text[s.at] == 'x':
			text[s.at] = s.x
		default:
			text[s.at] = s.n
		}
	}
	return string(text)
}
