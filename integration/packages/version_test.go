package packages_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A repo is a checkout with nothing but the script that tells its version.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	r := &repo{t, t.TempDir()}
	must(t, os.Mkdir(filepath.Join(r.dir, "packaging"), 0o755))
	must(t, os.WriteFile(filepath.Join(r.dir, "packaging/version.sh"), []byte(read(t, top+"/packaging/version.sh")), 0o755))
	r.git("init", "-q")
	r.commit("2026-11-28T05:06:07Z")
	return r
}

func (r *repo) git(args ...string) { r.gitAt("2026-11-28T05:06:07Z", args...) }

func (r *repo) gitAt(when string, args ...string) {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@a", "GIT_COMMITTER_DATE="+when)
	output(r.t, cmd)
}

func (r *repo) commit(when string) {
	r.t.Helper()
	r.git("add", ".")
	r.gitAt(when, "commit", "-q", "--allow-empty", "-m", "c")
}

func (r *repo) version() []string {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(r.dir, "packaging/version.sh"))
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=", "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.dir))
	return strings.Fields(output(r.t, cmd))
}

// before tells whether dpkg sorts a before b.
func before(t *testing.T, a, b string) {
	t.Helper()
	if err := exec.Command("dpkg", "--compare-versions", a, "lt", b).Run(); err != nil {
		t.Errorf("%s does not sort before %s", a, b)
	}
}

func TestTheVersionIsOfTheTagAndSortsBeforeTheNextOne(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	first := r.version()
	if !regexp.MustCompile(`^0\.2\.0~git20261128050607\.[0-9a-f]{12}$`).MatchString(first[0]) || first[2] != "2026-11-28" || first[3] != "1795842367" {
		t.Errorf("without a tag: %q", first)
	}
	r.commit("2026-11-28T05:06:09Z")
	second := r.version()
	r.git("tag", "v0.2.0")
	if got := r.version(); got[0] != "0.2.0" {
		t.Errorf("on the tag: %q", got)
	}
	must(t, os.WriteFile(filepath.Join(r.dir, "packaging/version.sh"), []byte(read(t, top+"/packaging/version.sh")+"# changed\n"), 0o755))
	dirty := r.version()
	if !strings.HasSuffix(dirty[0], ".dirty") || !strings.HasSuffix(dirty[1], ".dirty") {
		t.Errorf("with changes: %q", dirty)
	}
	r.commit("2026-11-29T05:06:07Z")
	later := r.version()
	if _, err := exec.LookPath("dpkg"); err != nil {
		return // the order is dpkg's and rpm's own
	}
	before(t, first[0], second[0])
	before(t, second[0], "0.2.0")
	before(t, "0.2.0", later[0])
	before(t, later[0], "0.2.1")
}

func TestWithoutGitTheVersionIsUnknown(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	must(t, os.RemoveAll(filepath.Join(r.dir, ".git")))
	if got := r.version(); got[0] != "0.2.0~unknown" || len(got) != 4 {
		t.Errorf("%q", got)
	}
}
