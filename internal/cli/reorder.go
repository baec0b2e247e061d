package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
)

// reorder puts flags before the arguments of their command, and the program's
// own flags before the command: the library wants that order, people write
// any. What follows "--" stays as it is.
func reorder(app *cli.App, args []string) ([]string, error) {
	var global, words, rest []string
	commands, command := app.Commands, (*cli.Command)(nil)
	var local []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			rest = args[i:]
			break
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" || isNumber(arg[1:]) {
			if next := find(commands, arg); next != nil && len(rest) == 0 && len(words) == depth(app, command) {
				command, commands = next, next.Subcommands
			}
			words = append(words, arg)
			continue
		}
		flag, own := lookup(app, command, arg)
		piece := []string{arg}
		if flag != nil && takesValue(flag) && !strings.Contains(arg, "=") {
			if i++; i == len(args) {
				return nil, term.Usagef("%s wants a value", arg)
			}
			piece = append(piece, args[i])
		}
		if own {
			local = append(local, piece...)
		} else {
			global = append(global, piece...)
		}
	}
	n := depth(app, command)
	out := slices.Concat(global, words[:n], local)
	if command == nil {
		out = slices.Concat(local, out)
	}
	return slices.Concat(out, words[n:], rest), nil
}

// isNumber tells whether what follows a dash is a number: -1 is the latest snapshot, -1.5G less.
func isNumber(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

// commandOf is the first word that is neither a flag of the program nor its value.
func commandOf(app *cli.App, args []string) string {
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") {
			return args[i]
		}
		if flag, _ := lookup(app, nil, args[i]); flag != nil && takesValue(flag) && !strings.Contains(args[i], "=") {
			i++
		}
	}
	return ""
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// depth is the number of words that lead to command: policy check has two.
func depth(app *cli.App, command *cli.Command) int {
	if command == nil {
		return 0
	}
	if slices.Contains(app.Commands, command) {
		return 1
	}
	return 2
}

// lookup finds the flag that arg names. Own tells that it is the command's;
// unknown flags and --help are, so that the message is about the command.
func lookup(app *cli.App, command *cli.Command, arg string) (flag cli.Flag, own bool) {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if command != nil {
		if f := named(command.Flags, name); f != nil {
			return f, true
		}
	}
	if f := named(app.Flags, name); f != nil {
		return f, false
	}
	return nil, true
}

func named(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}
