package packages_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/guest"
)

const snapshotName = "nightly-20261122T033338Z"

// A typist is somebody at a host with two guests, of which one has a snapshot.
type typist struct {
	t   *testing.T
	env []string
	dir string // with a file "image.qcow2"
}

func newTypist(t *testing.T) *typist {
	t.Helper()
	dir, err := os.MkdirTemp("", "vr-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	daemon, err := guest.NewDaemon(dir)
	must(t, err)
	t.Cleanup(func() { must(t, daemon.Close()) })
	for _, name := range []string{"web-1", "two words"} {
		must(t, daemon.Define(t.Context(), guest.Spec{Name: name}))
	}
	_, err = daemon.Virsh(t.Context(), "snapshot-create-as", "web-1", snapshotName, "--disk-only")
	must(t, err)
	program, err := binary()
	must(t, err)
	policy := filepath.Join(dir, "policy.toml")
	must(t, os.WriteFile(policy, []byte("connect = \""+daemon.URI()+"\"\n[policy.nightly]\ndomains = [\"*\"]\nkeep = { last = 2 }\n"), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "here"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "here/image.qcow2"), nil, 0o600))
	return &typist{t, []string{
		"PATH=" + filepath.Dir(program) + ":/usr/bin:/bin", "HOME=" + dir, "TERM=dumb", "LC_ALL=C.UTF-8",
		"VIRT_ROTATE_POLICY=" + policy, "INPUTRC=/dev/null",
	}, filepath.Join(dir, "here")}
}

// completions are what is typed, and what the line is after Tab, in any shell.
var completions = []struct{ typed, want string }{
	{"virt-rotate hist", "virt-rotate history"},
	{"virt-rotate policy sh", "virt-rotate policy show"},
	{"virt-rotate run --no-sn", "virt-rotate run --no-snapshot"},
	{"virt-rotate run --output j", "virt-rotate run --output json"},
	{"virt-rotate run --output=j", "virt-rotate run --output=json"},
	{"virt-rotate plan w", "virt-rotate plan web-1"},
	{"virt-rotate plan --output json w", "virt-rotate plan --output json web-1"},
	{"virt-rotate plan tw", "virt-rotate plan two\\ words"},
	{"virt-rotate plan web-1 two", "virt-rotate plan web-1 two\\ words"},
	{"virt-rotate restore web-1 n", "virt-rotate restore web-1 " + snapshotName},
	{"virt-rotate restore --disk vda web-1 ", "virt-rotate restore --disk vda web-1 " + snapshotName},
	{"virt-rotate restore web-1 lat", "virt-rotate restore web-1 latest"},
	{"virt-rotate doctor web-1 --forget n", "virt-rotate doctor web-1 --forget " + snapshotName},
	{"virt-rotate sr convert --policy-name n", "virt-rotate sr convert --policy-name nightly"},
	{"virt-rotate image info im", "virt-rotate image info image.qcow2"},
	{"virt-rotate export web-1 x -o im", "virt-rotate export web-1 x -o image.qcow2"},
	{"virt-rotate restore 'two words' n", "virt-rotate restore 'two words' n"}, // it has no snapshot
	{"virt-rotate --connect qemu+ssh://nowhere.invalid/system plan w", "virt-rotate --connect qemu+ssh://nowhere.invalid/system plan w"},
	{"virt-rotate plan '$(touch touched)' w", "virt-rotate plan '$(touch touched)' web-1"},
}

func (p *typist) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Dir = p.env, p.dir
	return cmd
}

func (p *typist) check(m *terminal) {
	p.t.Helper()
	for _, c := range completions {
		if got := m.pressed(c.typed); got != c.want {
			p.t.Errorf("%q becomes %q, want %q", c.typed, got, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(p.dir, "touched")); err == nil {
		p.t.Error("what was typed was run")
	}
}

func completionFile(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(top, "packaging/completion", name))
	must(t, err)
	return path
}

func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	p := newTypist(t)
	m := newTerminal(t, p.command("bash", "--norc", "--noprofile", "-i"))
	m.send("bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; . /usr/share/bash-completion/bash_completion; . " + completionFile(t, "virt-rotate.bash") + "\n")
	m.send(`bind -x '"\C-g": printf "%s<%s>%s\n" LINE "$READLINE_LINE" ENDS'; printf 'READ%s\n' Y!` + "\n")
	m.await("READ", "Y!")
	m.await("READY", "!")
	p.check(m)
}

func TestCompletionInZsh(t *testing.T) {
	t.Parallel()
	p := newTypist(t)
	m := newTerminal(t, p.command("zsh", "-f", "-i"))
	m.send("fpath=(" + filepath.Dir(completionFile(t, "_virt-rotate")) + " $fpath); autoload -Uz compinit; compinit -u -D; unsetopt beep promptsp\n")
	m.send(`show() { zle -I; print -r -- "LINE""<$BUFFER>""ENDS" }; zle -N show; bindkey -e; bindkey '^G' show; print READ''Y!` + "\n")
	m.await("READY", "!")
	p.check(m)
}

// fish tells without a terminal what the key would show.
func TestCompletionInFish(t *testing.T) {
	t.Parallel()
	p := newTypist(t)
	for _, c := range completions {
		got := output(t, p.command("fish", "--no-config", "-c", "source "+completionFile(t, "virt-rotate.fish")+`; complete -C $argv[1]`, c.typed))
		words := strings.Fields(c.want)
		want := words[len(words)-1]
		if strings.HasSuffix(c.want, "two\\ words") {
			want = "two\\ words"
		}
		lines := strings.Split(strings.TrimSpace(got), "\n")
		for i := range lines {
			lines[i], _, _ = strings.Cut(lines[i], "\t")
			lines[i] = strings.ReplaceAll(lines[i], "two words", "two\\ words")
		}
		nothing := c.typed == c.want
		if nothing && strings.TrimSpace(got) != "" || !nothing && !slices.Contains(lines, want) {
			t.Errorf("%q may become\n%swant %s", c.typed, got, want)
		}
	}
}

func TestCompletionOffersWhatThereIs(t *testing.T) {
	t.Parallel()
	p := newTypist(t)
	got := output(t, p.command("virt-rotate", "plan", "", "--generate-bash-completion"))
	if got != "two words\t\nweb-1\t\n" && got != "web-1\t\ntwo words\t\n" {
		t.Errorf("guests: %q", got)
	}
	for _, silent := range [][]string{
		{"--connect", "qemu+unix:///system?socket=/no/such/socket", "plan", ""},
		{"--policy", "/no/such/policy", "sr", "convert", "--policy-name", ""},
		{"restore", "nobody", ""},
		{"frob", "frob", ""},
	} {
		if got := output(t, p.command("virt-rotate", append(silent, "--generate-bash-completion")...)); got != "" {
			t.Errorf("%q: %q, want nothing", silent, got)
		}
	}
}
