package packages_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// common is what every installation has, below its prefix; documents are looked at by themselves.
var common = []string{
	"bin/virt-rotate",
	"lib/systemd/system/virt-rotate.service",
	"lib/systemd/system/virt-rotate.timer",
	"share/bash-completion/completions/virt-rotate",
	"share/fish/vendor_completions.d/virt-rotate.fish",
	"share/man/man1/virt-rotate-check.1",
	"share/man/man1/virt-rotate-doctor.1",
	"share/man/man1/virt-rotate-files.1",
	"share/man/man1/virt-rotate-fleet.1",
	"share/man/man1/virt-rotate-image.1",
	"share/man/man1/virt-rotate-policy.1",
	"share/man/man1/virt-rotate-report.1",
	"share/man/man1/virt-rotate-restore.1",
	"share/man/man1/virt-rotate-run.1",
	"share/man/man1/virt-rotate-snapshot.1",
	"share/man/man1/virt-rotate-sr.1",
	"share/man/man1/virt-rotate-status.1",
	"share/man/man1/virt-rotate.1",
	"share/man/man5/virt-rotate.toml.5",
	"share/zsh/site-functions/_virt-rotate",
}

// install runs make with this binary, and without Go.
func install(t *testing.T, target, dest, prefix string) {
	t.Helper()
	program, err := binary()
	must(t, err)
	cmd := exec.Command("packaging/install.sh", target)
	cmd.Dir = top
	cmd.Env = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/", "BINARY=" + program, "DESTDIR=" + dest, "PREFIX=" + prefix}
	output(t, cmd)
}

// filesIn lists the files below dir, with their modes.
func filesIn(t *testing.T, dir string) map[string]fs.FileMode {
	t.Helper()
	all := map[string]fs.FileMode{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		all[name] = info.Mode().Perm()
		return err
	}))
	return all
}

func TestInstallHasAllThatBelongsToIt(t *testing.T) {
	t.Parallel()
	dest := t.TempDir()
	install(t, "", dest, "/opt/vr")
	files := filesIn(t, dest)
	for _, name := range common {
		mode, ok := files["opt/vr/"+name]
		want := fs.FileMode(0o644)
		if strings.HasPrefix(name, "bin/") {
			want = 0o755
		}
		if !ok || mode != want {
			t.Errorf("%s: there: %v, mode %o, want %o", name, ok, mode, want)
		}
		delete(files, "opt/vr/"+name)
	}
	for name := range files {
		if !strings.HasPrefix(name, "opt/vr/share/doc/virt-rotate/") {
			t.Errorf("%s is installed as well", name)
		}
	}
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md", "docs/policy.md", "docs/recovery.md", "examples/first.toml", "examples/pacemaker/virt-rotate-domain", "examples/pacemaker/virt-rotate-save-config", "examples/virt-rotate.cron", "examples/virt-rotate-failure@.service"} {
		if _, ok := files["opt/vr/share/doc/virt-rotate/"+name]; !ok {
			t.Errorf("%s is not among the documents", name)
		}
	}
	for _, name := range []string{"opt/vr/lib/systemd/system/virt-rotate.service", "opt/vr/share/doc/virt-rotate/examples/virt-rotate.cron"} {
		text := read(t, filepath.Join(dest, name))
		if !strings.Contains(text, "/opt/vr/bin/virt-rotate ") || strings.Contains(text, "/usr/local/bin/virt-rotate") {
			t.Errorf("%s does not run the program where it is:\n%s", name, text)
		}
	}
}

func TestUninstallTakesAllBackAndNothingElse(t *testing.T) {
	t.Parallel()
	dest := t.TempDir()
	others := []string{"usr/local/bin/other", "usr/local/share/doc/other/README"}
	for _, name := range others {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dest, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dest, name), nil, 0o644))
	}
	install(t, "", dest, "/usr/local")
	install(t, "--uninstall", dest, "/usr/local")
	var left []string
	for name := range filesIn(t, dest) {
		left = append(left, name)
	}
	slices.Sort(left)
	if !slices.Equal(left, others) {
		t.Errorf("left are %q, want %q", left, others)
	}
	if _, err := os.Stat(filepath.Join(dest, "usr/local/share/doc/virt-rotate")); err == nil {
		t.Error("the directory of the documents is left")
	}
}

// make install must not build: whoever is root need not have Go.
func TestMakeInstallOfABinaryThatIsThereRunsNoGo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "bin/virt-rotate"), nil, 0o755))
	for name, text := range map[string]string{"Makefile": read(t, top+"/Makefile")} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	must(t, os.MkdirAll(filepath.Join(dir, "packaging"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "packaging/version.sh"), []byte(read(t, top+"/packaging/version.sh")), 0o755))
	got := output(t, exec.Command("make", "-n", "-C", dir, "install", "PREFIX=/opt/vr"))
	if strings.Contains(got, "go build") || !strings.Contains(got, "PREFIX='/opt/vr'") {
		t.Errorf("make install would do:\n%s", got)
	}
	must(t, os.Remove(filepath.Join(dir, "bin/virt-rotate")))
	if got := output(t, exec.Command("make", "-n", "-C", dir, "install")); !strings.Contains(got, "go build") {
		t.Errorf("without a binary make install would do:\n%s", got)
	}
}
