package sr

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/vhdbridge/pool"
)

// A target is the domain that is to be defined, if any is, on whatever images.
type target struct {
	*images.Run
	name    string // "": its XML is printed
	guest   *pool.Guest
	like    libvirthost.Template
	print   io.Writer // where to
	targets []string  // of the disks; "": the next one
	host    *libvirthost.Host
	notes   []string       // what is to be told of the guest once it is defined
	fresh   bool           // the domain is made of what is known of the guest
	chains  [][]host.Layer // of the disks, base first
	vars    *varsFile      // of the guest's firmware; nil: libvirt makes it
}

// wants tells whether there is a domain, which needs all that is converted.
func (d *target) wants() bool { return d.name != "" || d.print != nil }

// asked tells whether a domain is wanted.
func asked(r *images.Run) bool { return r.IsSet("define") || r.IsSet("domain-xml") }

// checkDomainFlags refuses what makes no sense without a domain, or with one.
func checkDomainFlags(r *images.Run) error {
	bus := r.String("bus")
	switch {
	case !asked(r):
		for _, name := range []string{"policy-name", "no-snapshots", "bus", "network", "fix-guest"} {
			if r.IsSet(name) {
				return term.Usagef("--policy-name, --no-snapshots, --bus, --network and --fix-guest go with --define NAME")
			}
		}
	case r.IsSet("fix-guest") && !r.IsSet("define"):
		return term.Usagef("--fix-guest goes with --define NAME")
	case r.IsSet("define") && r.String("define") == "":
		return term.Usagef("--define wants the name of the domain")
	case r.Bool("flatten"):
		return term.Usagef("--define and --domain-xml want chains: they do not go with --flatten")
	case !decide.IsPolicyName(r.String("policy-name")):
		return term.Usagef("--policy-name %q: want letters, digits, '_', '.' and '-'", r.String("policy-name"))
	case !slices.Contains(buses(), bus):
		return term.Usagef("--bus %s: want %s", bus, strings.Join(buses(), ", "))
	}
	if r.IsSet("vm") && r.IsSet("vdi") {
		return term.Usagef("--vm takes all disks of the guest: it does not go with --vdi")
	}
	_, err := networksOf(r)
	return err
}

// tell is for people, also when the output is for programs.
func (d *target) tell(format string, args ...any) {
	if !d.Bool("quiet") {
		fmt.Fprintln(d.Err, "virt-rotate:", term.Printable(fmt.Sprintf(format, args...)))
	}
}

// toStdout keeps standard output for the XML, if that is to be printed.
func (d *target) toStdout() {
	if d.name == "" {
		d.print = d.Out
		quiet := *d.Env
		quiet.Out = d.Err
		d.Env = &quiet
	}
}

// findXML gets what the domain is to be like, and sees that it has a place for each disk.
func (d *target) findXML() error {
	if file := d.String("domain-xml"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		d.like.XML = string(text)
	}
	if d.name != "" {
		if err := d.ask(); err != nil {
			return err
		}
	}
	left, err := d.like.Rehearse(d.name, d.targets)
	if err != nil {
		return &term.ExitError{Code: term.ExitUsage, Err: err}
	}
	if len(left) > 0 {
		d.tell("the domain's own disks %s stay as they are", strings.Join(left, ", "))
	}
	return nil
}

// ask asks libvirt for the domain, as far as it is not given.
func (d *target) ask() error {
	s, err := session.Open(d.Env, true)
	if err != nil {
		return err
	}
	d.host = s.Host
	if d.host.Remote() {
		return &chain.RefusedError{Path: d.name, Reason: "libvirt is on another host: it does not see the new images"}
	}
	d.like, err = d.host.TemplateOf(d.name, d.like.XML, len(d.targets))
	var other *libvirthost.ReplaceError
	switch {
	case errors.As(err, &other):
		return &chain.RefusedError{Path: "domain", Reason: other.Error()}
	case err != nil || !d.like.Plain:
		return err
	case d.guest != nil:
		d.fresh = true
		return d.likeGuest(d.String("bus"))
	}
	if i := slices.IndexFunc(d.targets, func(target string) bool { return target != "" }); i >= 0 {
		return term.Usagef("--vdi %s=…: there is no domain %s yet, and a plain one has no targets to choose from", d.targets[i], d.name)
	}
	return nil
}

func (d *target) close() error {
	if d.host == nil {
		return nil
	}
	host := d.host
	d.host = nil
	return host.Close()
}

// defineAs defines the domain, or prints its XML. Was is what each snapshot was before.
func (d *target) defineAs(n libvirthost.NewDomain, was []string) error {
	if d.name == "" {
		text, _, _, err := libvirthost.DomainXML(n.XML, "", n.Disks)
		if err == nil {
			_, err = fmt.Fprintln(d.print, text)
		}
		return err
	}
	if d.Bool("dry-run") {
		d.told(n, was, "would define")
		return nil
	}
	fixed, err := d.fix(&n)
	if err != nil {
		return err
	}
	if err := d.vars.write(); err != nil {
		return fmt.Errorf("the images are there, but the domain %s was not defined: %w", d.name, err)
	}
	if _, err := d.host.Define(d.Ctx(), n); err != nil {
		err = errors.Join(err, d.vars.remove())
		return fmt.Errorf("the images are there, but the domain %s was not defined: %w", d.name, err)
	}
	d.told(n, was, "defined")
	if d.Bool("fix-guest") && !fixed {
		return &term.ExitError{Code: term.ExitSome}
	}
	return nil
}

// told says what was defined.
func (d *target) told(n libvirthost.NewDomain, was []string, verb string) {
	what := ""
	if d.like.Plain {
		what = ", a plain one: see to its memory, CPUs and network with virsh edit"
	}
	d.tell("%s domain %s%s", verb, n.Name, what)
	for i, s := range n.Snapshots {
		text := "the state before the guest was changed for KVM"
		if i < len(was) {
			text = was[i]
		}
		first := s.Disks[0].State
		d.tell("%s snapshot %s, which is %s, in %s", verb, s.Name, text, first[len(first)-1].Path)
	}
	for _, note := range d.notes {
		d.tell("%s", note)
	}
}

// longestNote is how much of a snapshot's name is noted with it, in characters.
const longestNote = 200

// noteOf is what a snapshot was called, as one line that can be noted with the new one.
func noteOf(name string) string {
	line := strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, name)), " ")
	if runes := []rune(line); len(runes) > longestNote {
		line = strings.TrimSpace(string(runes[:longestNote])) + "…"
	}
	return line
}
