package images_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/images"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// three is a chain of three images that hold nothing.
const three = `
qemu-img create -q -f qcow2 l0.qcow2 1M
qemu-img create -q -f qcow2 -F qcow2 -b l0.qcow2 l1.qcow2
qemu-img create -q -f qcow2 -F qcow2 -b l1.qcow2 l2.qcow2
qemu-io -c 'write -P 1 0 64k' l1.qcow2 >/dev/null
`

const (
	dirty     = `qemu-io -c 'write -P 1 0 64k' -c abort %s >/dev/null 2>&1 || :` // with lazy refcounts
	corrupted = `printf '\002' | dd of=%s bs=1 seek=79 conv=notrunc status=none`
)

// refusals are what the engine is to leave alone: each file stays as it is.
var refusals = []struct {
	name   string
	script string
	ops    []op // on the layers l0.qcow2, l1.qcow2, l2.qcow2
}{
	{"a dirty base", three + "qemu-img amend -f qcow2 -o lazy_refcounts=on l0.qcow2\n" + on(dirty, "l0.qcow2"), []op{commit(1, 0), commit(2, 0)}},
	{"a dirty image", three + "qemu-img amend -f qcow2 -o lazy_refcounts=on l2.qcow2\n" + on(dirty, "l2.qcow2"), []op{pull(2, 0), rebase(2, 0)}},
	{"a corrupt base", three + on(corrupted, "l0.qcow2"), []op{commit(1, 0), commit(2, 0)}},
	{"a corrupt top", three + on(corrupted, "l1.qcow2"), []op{commit(1, 0), commit(2, 0), pull(1, images.None)}},
	{"a corrupt child", three + on(corrupted, "l2.qcow2"), []op{commit(1, 0), pull(2, 0), rebase(2, 0)}},
	{"a bitmap above a base of version 2", three + "qemu-img amend -q -f qcow2 -o compat=0.10 l0.qcow2; qemu-img bitmap --add l1.qcow2 b0", []op{commit(1, 0), commit(2, 0)}},
	{"an internal snapshot in the top", three + "qemu-img snapshot -c s l1.qcow2", []op{commit(1, 0), commit(2, 0), pull(1, images.None), rebase(1, images.None)}},
	{"an encrypted base", encrypted("l0.qcow2", ""), []op{commit(1, 0), pull(1, images.None), rebase(1, images.None)}},
	{"an encrypted top", "qemu-img create -q -f qcow2 l0.qcow2 1M\n" + encrypted("l1.qcow2", "-F qcow2 -b l0.qcow2"), []op{commit(1, 0), pull(1, images.None), rebase(1, images.None)}},
	{"an external data file", three + "rm l1.qcow2\nqemu-img create -q -f qcow2 -o data_file=data.raw -F qcow2 -b l0.qcow2 l1.qcow2\n", []op{commit(1, 0), commit(2, 0)}},
	{"a layer behind a symbolic link", three + "mkdir store; mv l1.qcow2 store; ln -s store/l1.qcow2 l1.qcow2", []op{commit(2, 0), commit(1, 0)}},
	{"a layer with two names", three + "ln l1.qcow2 again.qcow2", []op{commit(1, 0), commit(2, 0)}},
	{"another image on the base", three + "qemu-img create -q -f qcow2 -F qcow2 -b l0.qcow2 other.qcow2", []op{commit(1, 0), commit(2, 0)}},
	{"another image on a merged layer", three + "qemu-img create -q -f qcow2 -F qcow2 -b l1.qcow2 other.qcow2", []op{commit(2, 0), commit(2, 1)}},
	{"another image that does not say its base", three + `qemu-img create -q -f qcow2 other.qcow2 1M; qemu-img rebase -u -F qcow2 -b 'json:{"driver":"qcow2","file":{"driver":"file","filename":"l0.qcow2"}}' other.qcow2`, []op{commit(1, 0)}},
	{"a backing file of unknown format", three + `printf '\000\000\000\001' | dd of=l1.qcow2 bs=1 seek=112 conv=notrunc status=none`, []op{commit(1, 0), commit(2, 1), pull(2, 0), rebase(2, images.None)}},
	{"a backing file by protocol", three + "qemu-img rebase -u -F qcow2 -b nbd:localhost:1 l1.qcow2", []op{commit(2, 1), pull(2, 1)}},
	{"a child without room for the name", `
mkdir ` + long + `
qemu-img create -q -f qcow2 ` + long + `/l0.qcow2 1M
qemu-img create -q -f qcow2 -F qcow2 -b ` + long + `/l0.qcow2 l1.qcow2
qemu-img create -q -f qcow2 -o cluster_size=512 -F qcow2 -b l1.qcow2 l2.qcow2
ln -s ` + long + `/l0.qcow2 l0.qcow2
`, []op{commit(1, 0), pull(2, 0)}},
	{"a loop", three, []op{rebase(0, 2), rebase(1, 2), rebase(1, 1)}},
	{"a base", three, []op{commit(0, 0), pull(0, 1), commit(0, 1), commit(1, 2)}},
	{"a raw image", "truncate -s 1M l0.qcow2; qemu-img create -q -f qcow2 -F raw -b l0.qcow2 l1.qcow2; cp l1.qcow2 l2.qcow2", []op{pull(0, 1), rebase(0, 1)}},
	{"structure that is damaged", three + "qemu-io -c 'write -P 1 0 64k' l0.qcow2 >/dev/null; printf '\\001' | dd of=l0.qcow2 bs=1 seek=262150 conv=notrunc status=none", []op{commit(1, 0)}},
}

var long = strings.Repeat("x", 250) + "/" + strings.Repeat("y", 250)

func on(command, image string) string { return strings.Replace(command, "%s", image, 1) + "\n" }

func encrypted(name, options string) string {
	// qemu-img times its hash and fails when the clock saw no time pass: a slow hash, and again
	return `luks() { qemu-img create -q -f qcow2 --object secret,id=k,data=abc -o encrypt.format=luks,encrypt.hash-alg=sha512,encrypt.key-secret=k,encrypt.iter-time=10 ` + options + ` ` + name + ` 1M 2>/dev/null; }
for i in {1..50}; do ! luks || break; done
[ -e l1.qcow2 ] || qemu-img create -q -u -f qcow2 -F qcow2 -b l0.qcow2 l1.qcow2 1M
`
}

func commit(layer, base int) op { return op{Kind: "commit", Layer: layer, Base: base} }
func pull(layer, base int) op   { return op{Kind: "pull", Layer: layer, Base: base} }
func rebase(layer, base int) op { return op{Kind: "rebase", Layer: layer, Base: base} }

func TestRefusedWithoutAChange(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tree := row(layer(mib, ""), layer(0, ""), layer(0, ""))
			if c.name == "a raw image" {
				tree.Layers[0].Format = "raw"
			}
			b := &bench{dir: filepath.Join(t.TempDir(), "images"), tree: &tree}
			if err := images.Shell(t.Context(), t.TempDir(), "D="+b.dir, "mkdir $D; cd $D\n"+strings.ReplaceAll(c.script, "mkdir "+long, "mkdir -p "+long)); err != nil {
				t.Fatal(err)
			}
			for _, o := range c.ops {
				b.mustRefuse(t, o)
			}
		})
	}
}

// mustRefuse wants an error that tells why, and each file as it was.
func (b *bench) mustRefuse(t *testing.T, o op) {
	t.Helper()
	before, err := b.readFiles()
	if err != nil {
		t.Fatal(err)
	}
	err = o.run(t.Context(), vfs.OS(), b, func(int64, int64) {})
	var malformed *qcow2.FormatError
	if !isRefusal(err) && !errors.As(err, &malformed) {
		t.Errorf("%s of %d, %d: %v", o.Kind, o.Layer, o.Base, err)
	}
	t.Logf("%s of %d, %d: %v", o.Kind, o.Layer, o.Base, err)
	after, err := b.readFiles()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range after {
		if was := before[name]; was == nil {
			t.Errorf("%s of %d, %d: %s is there", o.Kind, o.Layer, o.Base, name)
		} else if at := was.Diff(c); at >= 0 {
			t.Errorf("%s of %d, %d: %s has changed at byte %d", o.Kind, o.Layer, o.Base, name, at)
		}
		delete(before, name)
	}
	for name := range before {
		t.Errorf("%s of %d, %d: %s is gone", o.Kind, o.Layer, o.Base, name)
	}
}
