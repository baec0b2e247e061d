// Command matrix shows the demo and runs the integration tests with the libvirt and QEMU of
// other suites of Debian, each in a root of its own, and prints a table of what passed.
//
//	go run ./integration/matrix -suites "bookworm trixie sid" -write   # make matrix
//
// Roots, and the whole output of the last run, are kept below virt-rotate/matrix in the user's
// cache directory. It needs root and debootstrap, and the network to make a root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// What a whole run has: its table is the one that -write writes down.
const (
	allSuites   = "bookworm trixie sid"
	allPackages = "./integration ./integration/guest ./integration/images"
)

// options are the flags.
type options struct {
	suites, packages, run string
	parallel              string
	write, demo           bool
}

func main() {
	var o options
	flag.StringVar(&o.suites, "suites", allSuites, "suites, `names` with spaces between")
	flag.StringVar(&o.packages, "packages", allPackages, "packages of tests, with spaces between")
	flag.StringVar(&o.run, "run", "", "only the tests that this `regexp` matches")
	flag.StringVar(&o.parallel, "parallel", "", "as of go test")
	flag.BoolVar(&o.demo, "demo", true, "show the demo, too")
	flag.BoolVar(&o.write, "write", false, "write the lines of the suites that passed into docs/testing.md and README.md")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, &o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	if o.write && (o.run != "" || o.packages != allPackages || !o.demo) {
		return errors.New("-write is for whole runs, without -run, -packages and -demo=false")
	}
	var rows []row
	var failed error
	for _, suite := range strings.Fields(o.suites) {
		r, err := runSuite(ctx, suite, o)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", suite, err))
		}
		if r != nil {
			rows = append(rows, *r)
		}
	}
	if len(rows) > 0 {
		fmt.Print("\n", table(rows, time.Now()))
	}
	for _, r := range rows {
		for _, name := range r.names {
			fmt.Printf("failed on %s: %s\n", r.suite, name)
		}
	}
	if o.write {
		rows = slices.DeleteFunc(rows, func(r row) bool { return r.verdict() != nil })
		failed = errors.Join(failed, writeTables(rows, time.Now()))
	}
	return failed
}

// runSuite returns the row of a suite, and an error if anything of it failed.
func runSuite(ctx context.Context, suite string, o *options) (*row, error) {
	r, err := newRoot(ctx, suite)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	result := &row{suite: suite, libvirt: r.version(ctx, "libvirtd"), qemu: r.version(ctx, "qemu-system-x86_64"), demo: "not shown"}
	log, err := os.Create(r.dir + ".tests.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if o.demo {
		cmd := r.command(ctx, "make", "demo")
		cmd.Stdout, cmd.Stderr = log, log
		result.demo = "passed"
		if err := cmd.Run(); err != nil {
			result.demo = "failed"
		}
		fmt.Printf("%s: demo %s after %d s\n", suite, result.demo, seconds(began))
	}
	args := append([]string{"go", "test", "-json", "-tags", "libvirt_dlopen", "-count=1", "-p", "1", "-timeout", "6h", "-run", o.run}, strings.Fields(o.packages)...)
	if o.parallel != "" {
		args = append(args, "-parallel", o.parallel)
	}
	tests := r.command(ctx, args...)
	tests.Stderr = log
	out, err := tests.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := tests.Start(); err != nil {
		return nil, err
	}
	counted := result.count(out, log)
	err = errors.Join(counted, tests.Wait())
	result.seconds = seconds(began)
	fmt.Printf("%s: %d tests passed, %d failed, %d skipped after %d s; all output is in %s\n",
		suite, result.passed, result.failed, result.skipped, result.seconds, log.Name())
	return result, errors.Join(err, result.verdict())
}

func seconds(since time.Time) int { return int(time.Since(since).Seconds()) }

// A root is that of one suite.
type root struct {
	dir string // of the root
	src string // of the checkout
	env goEnv
}

type goEnv struct{ goroot, modcache string }

// newRoot makes the root of the suite, if it is not there yet.
func newRoot(ctx context.Context, suite string) (*root, error) {
	if !regexp.MustCompile(`^[a-z]+$`).MatchString(suite) {
		return nil, errors.New("not the name of a suite")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	src, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	dirs, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOMODCACHE").Output()
	if err != nil {
		return nil, err
	}
	found := strings.Fields(string(dirs))
	r := &root{dir: filepath.Join(cache, "virt-rotate/matrix", suite), src: src, env: goEnv{found[0], found[1]}}
	if err := os.MkdirAll(filepath.Dir(r.dir), 0o755); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "integration/matrix/root.sh", suite, r.dir)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return r, cmd.Run()
}

// command prepares a command in namespaces of its own; what it starts ends with it.
func (r *root) command(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{
		"--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child", "--propagation", "private",
		"integration/matrix/inside.sh", r.dir, r.src, r.env.goroot, r.env.modcache,
	}
	return exec.CommandContext(ctx, "unshare", append(enter, args...)...)
}

var versionNumber = regexp.MustCompile(`\d+\.\d+\.\d+`)

// version is that of a program in the root.
func (r *root) version(ctx context.Context, program string) string {
	out, err := r.command(ctx, program, "--version").Output()
	if err != nil {
		return "none"
	}
	return string(versionNumber.Find(out))
}
