package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// completeFlag ends a command line that a shell wants completed: what stands before it is
// the word that is being typed, which may be empty. packaging/completion has the shells' side.
const completeFlag = "--generate-bash-completion"

// completeTime is how long somebody who presses a key waits for names.
const completeTime = 3 * time.Second

// A candidate is what the word may become, and what that is.
type candidate struct{ text, usage string }

// files is the candidate that lets the shell offer names of files: no domain, snapshot or
// policy can be called so.
var files = []candidate{{text: "/"}}

// A typed is a command line that is being typed.
type typed struct {
	app     *cli.App
	command *cli.Command      // nil before there is one
	args    []string          // of the command
	values  map[string]string // of the flags, by their first names
	flag    cli.Flag          // whose value the word is
	literal bool              // what follows "--"
	word    string
}

// complete prints the candidates for the last of words, one a line, with a tab before what
// each is. It tells nothing of what goes wrong, and is read-only.
func complete(e *term.Env, app *cli.App, words []string) {
	t := parse(app, words)
	e.PolicyPath = cmp.Or(t.values["policy"], os.Getenv("VIRT_ROTATE_POLICY"), session.DefaultPolicy())
	e.Connect = t.values["connect"]
	found := make(chan []candidate, 1)
	go func() { found <- t.candidates(e) }()
	select {
	case all := <-found:
		t.print(e.Out, all)
	case <-time.After(completeTime):
	}
}

// print leaves out what the word cannot become, and names that no line can hold.
func (t *typed) print(w io.Writer, all []candidate) {
	for _, c := range all {
		if strings.ContainsFunc(c.text, unicode.IsControl) || c.text != "/" && !strings.HasPrefix(c.text, t.word) {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", c.text, strings.Map(printable, c.usage))
	}
}

func printable(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

// parse reads words as reorder does, but is content with what is not finished.
func parse(app *cli.App, words []string) *typed {
	t := &typed{app: app, values: map[string]string{}}
	for _, word := range words[:len(words)-1] {
		t.take(word)
	}
	t.word = words[len(words)-1]
	name, value, ok := strings.Cut(t.word, "=")
	if flag, _ := lookup(app, t.command, name); ok && t.isFlag(name) && flag != nil && takesValue(flag) {
		t.flag, t.word = flag, value
	}
	return t
}

// take reads one word that is finished.
func (t *typed) take(word string) {
	switch {
	case t.flag != nil:
		t.values[t.flag.Names()[0]] = word
		t.flag = nil
	case word == "--" && !t.literal:
		t.literal = true
	case t.isFlag(word):
		flag, _ := lookup(t.app, t.command, word)
		_, value, ok := strings.Cut(word, "=")
		switch {
		case flag == nil || !takesValue(flag):
		case ok:
			t.values[flag.Names()[0]] = value
		default:
			t.flag = flag
		}
	default:
		if next := find(t.commands(), word); next != nil && len(t.args) == 0 && !t.literal {
			t.command = next
			return
		}
		t.args = append(t.args, word)
	}
}

func (t *typed) isFlag(word string) bool {
	return !t.literal && len(word) > 1 && word[0] == '-'
}

// commands are those that may come next.
func (t *typed) commands() []*cli.Command {
	if t.command == nil {
		return t.app.Commands
	}
	return t.command.Subcommands
}

func (t *typed) candidates(e *term.Env) []candidate {
	switch {
	case t.flag != nil:
		return t.flagValues(e)
	case strings.HasPrefix(t.word, "-") && !t.literal:
		return t.flags()
	case len(t.commands()) > 0:
		return t.commandNames()
	case t.command != nil:
		return t.arguments(e)
	}
	return nil
}

func (t *typed) commandNames() []candidate {
	var all []candidate
	for _, c := range t.commands() {
		if !c.Hidden && len(t.args) == 0 {
			all = append(all, candidate{c.Name, c.Usage})
		}
	}
	return all
}

// flags are those of the command, then the program's, in their long form.
func (t *typed) flags() []candidate {
	own := []cli.Flag{}
	if t.command != nil {
		own = t.command.Flags
	}
	all := []candidate{{"--help", "show help"}}
	for _, f := range slices.Concat(own, t.app.Flags) {
		d, ok := f.(cli.DocGenerationFlag)
		if v, can := f.(cli.VisibleFlag); !ok || can && !v.IsVisible() {
			continue
		}
		c := candidate{"--" + f.Names()[0], strings.ReplaceAll(d.GetUsage(), "`", "")}
		if len(f.Names()[0]) == 1 {
			c.text = c.text[1:]
		}
		if !slices.ContainsFunc(all, func(o candidate) bool { return o.text == c.text }) {
			all = append(all, c)
		}
	}
	return all
}

// flagValues goes by the name of the flag, or by what its usage calls the value.
func (t *typed) flagValues(e *term.Env) []candidate {
	switch t.flag.Names()[0] {
	case "output":
		return plain("human", "json")
	case "policy-name":
		return plain(session.PolicyNames(e)...)
	}
	d, ok := t.flag.(cli.DocGenerationFlag)
	if !ok {
		return nil
	}
	_, rest, _ := strings.Cut(d.GetUsage(), "`")
	kind, _, _ := strings.Cut(rest, "`")
	return t.named(e, kind)
}

// arguments goes by what the command's usage calls the argument; the last one may be
// there several times.
func (t *typed) arguments(e *term.Env) []candidate {
	words := strings.Fields(t.command.ArgsUsage)
	n := len(t.args)
	if n >= len(words) {
		if len(words) == 0 || !strings.Contains(words[len(words)-1], "…") {
			return nil
		}
		n = len(words) - 1
	}
	var all []candidate
	for _, kind := range strings.Split(strings.Trim(words[n], "[]…"), "|") {
		all = append(all, t.named(e, kind)...)
	}
	return all
}

// states lists domains with their snapshots, as commands on files name them.
func (t *typed) states(e *term.Env) []candidate {
	domain, snapshot, at := strings.Cut(t.word, "@")
	var all []string
	switch {
	case !at:
		for _, name := range session.DomainNames(e) {
			all = append(all, name+"@latest")
		}
	case !strings.Contains(snapshot, ":"):
		for _, name := range append(session.SnapshotNames(e, domain), "latest", "oldest", "today", "yesterday") {
			all = append(all, domain+"@"+name)
		}
	}
	return plain(all...)
}

// named lists what a word of that kind may be.
func (t *typed) named(e *term.Env, kind string) []candidate {
	if strings.HasPrefix(kind, "DOMAIN@SNAPSHOT") {
		return t.states(e)
	}
	switch kind {
	case "DOMAIN":
		return slices.DeleteFunc(plain(session.DomainNames(e)...), func(c candidate) bool { return slices.Contains(t.args, c.text) })
	case "SNAPSHOT":
		if len(t.args) == 0 {
			return nil
		}
		names := session.SnapshotNames(e, t.args[0])
		if t.flag == nil && t.word != "" { // else the only snapshot would not be completed at once
			names = append(names, "latest", "oldest", "today", "yesterday")
		}
		return plain(names...)
	case "FILE", "FILE1", "FILE2", "NEWFILE", "FILE.xva", "IMAGE", "OVERLAY", "BASE", "DIR", "DEST", "PATH":
		return files
	}
	return nil
}

func plain(names ...string) []candidate {
	all := make([]candidate, len(names))
	for i, name := range names {
		all[i].text = name
	}
	return all
}
