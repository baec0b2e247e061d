//go:build packages

package packages_test

import (
	"archive/tar"
	"compress/gzip"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

var (
	building sync.Mutex // guards built
	built    = map[string]packages{}
)

// documents are what each package has beside common, wherever its family keeps documents.
var documents = []string{"README.md", "docs/policy.md", "docs/recovery.md", "examples/first.toml", "examples/virt-rotate.cron"}

// wantFiles sees that all of common and documents is there, by the names of a family.
func wantFiles(t *testing.T, list string, units bool, rename *strings.Replacer) {
	t.Helper()
	have := strings.Fields(list)
	want := slices.Clone(common)
	for _, name := range documents {
		want = append(want, "share/doc/virt-rotate/"+name)
	}
	for _, name := range want {
		if !units && strings.HasPrefix(name, "lib/systemd/") {
			continue
		}
		if name = rename.Replace("/usr/" + name); !slices.Contains(have, name) {
			t.Errorf("%s is not in it", name)
		}
	}
}

func TestDeb(t *testing.T) {
	t.Parallel()
	p := packagesOf(t, "")
	list := output(t, exec.Command("sh", "-c", `dpkg-deb -c "$0" | awk '{ print substr($6, 2) }'`, p.deb))
	wantFiles(t, list, true, strings.NewReplacer(".1", ".1.gz", ".5", ".5.gz", "site-functions", "vendor-completions"))
	for _, name := range []string{"changelog.gz", "changelog.Debian.gz", "copyright"} {
		if !strings.Contains(list, "/usr/share/doc/virt-rotate/"+name+"\n") {
			t.Errorf("%s is not in it", name)
		}
	}
	if got := output(t, exec.Command("dpkg-deb", "-f", p.deb, "Version")); got != p.version+"-1\n" {
		t.Errorf("version %q, want %s-1", got, p.version)
	}
	if depends := output(t, exec.Command("dpkg-deb", "-f", p.deb, "Depends")); !regexp.MustCompile(`^libc6 \(>= 2\.\d+\)\n$`).MatchString(depends) {
		t.Errorf("it depends on %q", depends)
	}
}

// Cockpit's page is a package of its own, which wants the program of its version.
func TestCockpitsPackages(t *testing.T) {
	t.Parallel()
	p := packagesOf(t, "")
	lists := map[string]string{
		p.cockpitDeb: output(t, exec.Command("sh", "-c", `dpkg-deb -c "$0" | awk '{ print substr($6, 2) }'`, p.cockpitDeb)),
		p.cockpitRPM: output(t, exec.Command("rpm", "-qpl", p.cockpitRPM)),
	}
	for path, list := range lists {
		for _, name := range []string{"manifest.json", "index.html", "index.js", "actions.js", "command.js", "dom.js", "page.css", "virt-rotate.css"} {
			if !strings.Contains(list, "/usr/share/cockpit/virt-rotate/"+name+"\n") {
				t.Errorf("%s: %s is not in it:\n%s", path, name, list)
			}
		}
	}
	if got := output(t, exec.Command("dpkg-deb", "-f", p.cockpitDeb, "Depends")); got != "virt-rotate (= "+p.version+"-1), cockpit-bridge (>= 239)\n" {
		t.Errorf("it depends on %q", got)
	}
	if got := output(t, exec.Command("rpmlint", "-c", top+"/packaging/rpm/rpmlint.toml", p.cockpitRPM)); !strings.Contains(got, "0 errors, 0 warnings") {
		t.Errorf("rpmlint:\n%s", got)
	}
	ownedBy(t, p.cockpitRPM)
	root := t.TempDir()
	output(t, exec.Command("rpm", "--root", root, "--initdb"))
	output(t, exec.Command("rpm", "--root", root, "--install", "--nodeps", p.cockpitRPM))
	output(t, exec.Command("rpm", "--root", root, "--verify", "--nodeps", "virt-rotate-cockpit"))
	output(t, exec.Command("rpm", "--root", root, "--erase", "--nodeps", "virt-rotate-cockpit"))
	if _, err := os.Stat(root + "/usr/share/cockpit/virt-rotate"); err == nil {
		t.Error("rpm leaves the page behind")
	}
	if got := output(t, exec.Command("rpm", "-qpR", p.cockpitRPM)); !strings.Contains(got, "virt-rotate = "+p.version+"-1\n") {
		t.Errorf("it requires %q", got)
	}
}

func TestTheBinaryIsStrippedAndPositionIndependent(t *testing.T) {
	t.Parallel()
	p := packagesOf(t, "")
	dir := t.TempDir()
	output(t, exec.Command("dpkg-deb", "-x", p.deb, dir))
	f, err := elf.Open(filepath.Join(dir, "usr/bin/virt-rotate"))
	must(t, err)
	defer f.Close()
	if f.Type != elf.ET_DYN {
		t.Errorf("it is of type %v", f.Type)
	}
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
		t.Error("it is not stripped")
	}
	flags, err := f.DynValue(elf.DT_FLAGS)
	must(t, err)
	if len(flags) == 0 || elf.DynFlag(flags[0])&elf.DF_BIND_NOW == 0 {
		t.Errorf("it is not bound at its start: %v", flags)
	}
	libraries, err := f.ImportedLibraries()
	must(t, err)
	for _, name := range libraries {
		if strings.Contains(name, "virt") {
			t.Errorf("it is linked with %s", name)
		}
	}
}

func TestRPM(t *testing.T) {
	t.Parallel()
	p := packagesOf(t, "")
	if got := output(t, exec.Command("rpm", "-K", p.rpm)); !strings.HasSuffix(got, ": digests OK\n") {
		t.Errorf("rpm -K: %s", got)
	}
	wantFiles(t, output(t, exec.Command("rpm", "-qpl", p.rpm)), true, strings.NewReplacer(".1", ".1.gz", ".5", ".5.gz"))
	if got := output(t, exec.Command("rpm", "-qp", "--qf", "%{VERSION}-%{RELEASE} %{BUILDHOST} %{LICENSE}", p.rpm)); got != p.version+"-1 localhost Apache-2.0" {
		t.Errorf("it is %q", got)
	}
	owned := ownedBy(t, p.rpm)
	if !strings.Contains(owned, "drwxr-x--- /etc/virt-rotate\n") {
		t.Errorf("/etc/virt-rotate is not 0750:\n%s", owned)
	}
	if got := output(t, exec.Command("rpmlint", "-c", top+"/packaging/rpm/rpmlint.toml", p.rpm)); !strings.Contains(got, "0 errors, 0 warnings") {
		t.Errorf("rpmlint:\n%s", got)
	}
	root := t.TempDir() // an empty root: the payload is what is tried
	output(t, exec.Command("rpm", "--root", root, "--initdb"))
	output(t, exec.Command("rpm", "--root", root, "--install", "--nodeps", "--noscripts", p.rpm))
	output(t, exec.Command("rpm", "--root", root, "--verify", "--nodeps", "virt-rotate"))
	if got := output(t, exec.Command(filepath.Join(root, "usr/bin/virt-rotate"), "--version")); !strings.Contains(got, p.version+" (commit ") {
		t.Errorf("--version says %q", got)
	}
	for _, tag := range []string{"PREIN", "POSTIN", "PREUN", "POSTUN"} { // they must be shell that dash and bash read
		script := exec.Command("sh", "-n")
		script.Stdin = strings.NewReader(output(t, exec.Command("rpm", "-qp", "--qf", "%{"+tag+"}", p.rpm)))
		output(t, script)
	}
}

// ownedBy lists what an rpm owns, with the modes: no directory of the system's.
func ownedBy(t *testing.T, rpm string) string {
	t.Helper()
	owned := output(t, exec.Command("rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]", rpm))
	for _, line := range strings.Split(strings.TrimSpace(owned), "\n") {
		if dir, name, _ := strings.Cut(line, " "); dir[0] == 'd' && !strings.Contains(name, "virt-rotate") {
			t.Errorf("%s owns %s, a directory of the system's", rpm, name)
		}
	}
	return owned
}

// An apk is up to three tar archives, each compressed by itself.
func TestAPK(t *testing.T) {
	t.Parallel()
	p := packagesOf(t, "")
	dir := t.TempDir()
	var names []string
	var info string
	eachFile(t, p.apk, func(h *tar.Header, r io.Reader) {
		names = append(names, "/"+h.Name)
		switch h.Name {
		case ".PKGINFO":
			b, err := io.ReadAll(r)
			must(t, err)
			info = string(b)
		case "usr/bin/virt-rotate":
			unpack(t, filepath.Join(dir, "virt-rotate"), r)
		}
	})
	wantFiles(t, strings.Join(names, "\n"), false, strings.NewReplacer(".1", ".1.gz", ".5", ".5.gz"))
	version := regexp.MustCompile(`(?m)^pkgver = (.*)$`).FindStringSubmatch(info)
	if version == nil || !regexp.MustCompile(`^\d+(\.\d+)*(_pre\d*)?-r\d+$`).MatchString(version[1]) {
		t.Errorf("Alpine does not know this form of a version:\n%s", info)
	}
	for _, line := range strings.Split(strings.TrimSpace(info), "\n") {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, " = ") {
			t.Errorf(".PKGINFO has the line %q", line)
		}
	}
	f, err := elf.Open(filepath.Join(dir, "virt-rotate"))
	must(t, err)
	defer f.Close()
	interpreter, err := io.ReadAll(f.Section(".interp").Open())
	must(t, err)
	if !strings.HasPrefix(string(interpreter), "/lib/ld-musl-") {
		t.Errorf("its libc is not musl: %s", interpreter)
	}
	image := filepath.Join(dir, "i.qcow2") // musl of this machine runs it
	output(t, exec.Command(filepath.Join(dir, "virt-rotate"), "image", "create", "-f", "qcow2", image, "1M"))
	if out, err := exec.Command(filepath.Join(dir, "virt-rotate"), "--connect", "test:///default", "tree").CombinedOutput(); err == nil || !strings.Contains(string(out), "libvirt") {
		t.Errorf("without a libvirt for musl it says %s", out)
	}
}

func TestTarball(t *testing.T) {
	t.Parallel()
	p := packagesOf(t, "")
	dir := t.TempDir()
	output(t, exec.Command("tar", "-C", dir, "--strip-components=1", "-xzf", p.tarball))
	for _, name := range []string{"README.md", "LICENSE", "CHANGELOG.md", "man/man1/virt-rotate.1", "man/man5/virt-rotate.toml.5", "completion/virt-rotate.bash", "completion/_virt-rotate", "completion/virt-rotate.fish", "docs/image.md"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	f, err := elf.Open(filepath.Join(dir, "virt-rotate"))
	must(t, err)
	defer f.Close()
	if f.Section(".interp") != nil {
		t.Error("it is not static")
	}
	if got := output(t, exec.Command(filepath.Join(dir, "virt-rotate"), "--version")); !strings.Contains(got, p.version+" (commit ") {
		t.Errorf("--version says %q", got)
	}
	out, err := exec.Command(filepath.Join(dir, "virt-rotate"), "tree").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "libvirt") {
		t.Errorf("a command for guests says %s", out)
	}
}

// The same commit gives the same bytes, whenever and by whom it is built.
func TestPackagesAreReproducible(t *testing.T) {
	t.Parallel()
	p := packagesOf(t, "")
	building.Lock()
	defer building.Unlock()
	again := t.TempDir()
	cmd := exec.Command(top+"/packaging/build.sh", "deb", "rpm", "apk", "tarball")
	cmd.Env = append(os.Environ(), "OUT="+again, "TZ=Asia/Tokyo", "LANG=C", "USER=somebody")
	output(t, cmd)
	for _, path := range []string{p.deb, p.rpm, p.apk, p.tarball, p.cockpitDeb, p.cockpitRPM} {
		if read(t, path) != read(t, filepath.Join(again, filepath.Base(path))) {
			t.Errorf("%s is another one the second time", filepath.Base(path))
		}
	}
}

// eachFile reads a file of archives, each compressed by itself.
func eachFile(t *testing.T, path string, do func(*tar.Header, io.Reader)) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		do(h, r)
	}
}

func unpack(t *testing.T, path string, r io.Reader) {
	t.Helper()
	b, err := io.ReadAll(r)
	must(t, err)
	must(t, os.WriteFile(path, b, 0o755))
}
