package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"text/template"

	"github.com/virt-rotate/virt-rotate/integration/initramfs"
)

// LinuxLog is the file on the disk of a Linux guest that it writes numbered lines to.
const LinuxLog = "/log"

// linuxInit is the guest's first process. It appends numbered lines to LinuxLog
// for ever, tells each on the serial line once it has written it, and syncs now and
// then. /freeze-hook is what the agent runs before it freezes and after it thaws:
// nothing at first.
const linuxInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in /modules/*; do
	insmod "$m" || echo "cannot load $m"
done
until [ -b /dev/vda ]; do usleep 10000; done
mount -t ext4 /dev/vda /mnt || echo "cannot mount /dev/vda"
echo '#!/bin/sh' > /freeze-hook
chmod 755 /freeze-hook
until name=$(grep -l '^org.qemu.guest_agent.0$' /sys/class/virtio-ports/*/name); do usleep 10000; done
port=${name%/name}
qemu-ga -m virtio-serial -p "/dev/${port##*/}" -t /run -f /run/qemu-ga.pid -F/freeze-hook &
n=0
while :; do
	n=$((n + 1))
	echo "$n" >> /mnt/log && echo "line $n"
	[ $((n % 25)) != 0 ] || sync
	usleep 20000
done
`

const (
	linuxMemoryMiB = 128
	linuxDiskSize  = 64 << 20
	linuxCmdline   = "console=ttyS0 quiet panic=-1 mitigations=off"
)

var linuxXML = template.Must(template.New("linux").Parse(`<domain type='qemu'>
<name>{{.Name}}</name>
<memory unit='MiB'>{{.MemoryMiB}}</memory>
<vcpu>1</vcpu>
<os>
<type arch='x86_64' machine='pc'>hvm</type>
<kernel>{{html .Kernel}}</kernel>
<initrd>{{html .Initrd}}</initrd>
<cmdline>{{html .Cmdline}}</cmdline>
</os>
<features><acpi/><apic/></features>
<on_poweroff>destroy</on_poweroff>
<on_reboot>destroy</on_reboot>
<on_crash>destroy</on_crash>
<devices>
<emulator>{{.Emulator}}</emulator>
<disk type='file' device='disk'>
<driver name='qemu' type='qcow2'/>
<source file='{{html .Disk}}'/>
<target dev='vda' bus='virtio'/>
</disk>
<controller type='usb' model='none'/>
<memballoon model='none'/>
<serial type='file'><source path='{{html .Serial}}' append='on'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
</devices>
</domain>
`))

// DefineLinux makes a guest that runs Linux and a guest agent, with an ext4 file
// system for LinuxLog on its disk vda, and defines it, shut off.
func (h *Host) DefineLinux(ctx context.Context, name string) error {
	linux, err := linuxBoot()
	if err != nil {
		return err
	}
	data := struct {
		Name, Kernel, Initrd, Cmdline, Emulator, Disk, Serial string
		MemoryMiB                                             int
	}{
		name, filepath.Join(h.dir, "vmlinuz"), filepath.Join(h.dir, "initrd"), linuxCmdline, emulator,
		filepath.Join(h.dir, imagesDir, name+"-vda.qcow2"), h.SerialLog(name), linuxMemoryMiB,
	}
	if err := makeExt4(ctx, data.Disk); err != nil {
		return err
	}
	var xml bytes.Buffer
	if err := linuxXML.Execute(&xml, data); err != nil {
		return err
	}
	file := filepath.Join(h.dir, name+".xml")
	for path, content := range map[string][]byte{
		data.Kernel: linux.kernel, data.Initrd: linux.initramfs, file: xml.Bytes(),
	} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	_, err = h.Virsh(ctx, "define", file)
	return err
}

// makeExt4 makes a qcow2 image with an empty file system.
func makeExt4(ctx context.Context, image string) error {
	raw := image + ".raw"
	if err := os.WriteFile(raw, nil, 0o600); err != nil {
		return err
	}
	defer os.Remove(raw)
	if err := os.Truncate(raw, linuxDiskSize); err != nil {
		return err
	}
	const now = "lazy_itable_init=0,lazy_journal_init=0"
	if _, err := output(exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-E", now, raw)); err != nil {
		return err
	}
	_, err := QemuImg(ctx, "convert", "-q", "-f", "raw", "-O", "qcow2", raw, image)
	return err
}

var lineTold = regexp.MustCompile(`(?m)^line (\d+)\r?$`)

// Lines is the number of the last line that a Linux guest has told to have written.
func (h *Host) Lines(name string) (int, error) {
	b, err := os.ReadFile(h.SerialLog(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	told := lineTold.FindAllSubmatch(b, -1)
	if len(told) == 0 {
		return 0, nil
	}
	return strconv.Atoi(string(told[len(told)-1][1]))
}

// WaitLines waits until a Linux guest has written n more lines.
func (h *Host) WaitLines(ctx context.Context, name string, n int) error {
	first, err := h.Lines(name)
	if err != nil {
		return err
	}
	now := first
	err = Await(ctx, "lines", func() (bool, error) {
		now, err = h.Lines(name)
		return now >= first+n, err
	})
	if err != nil {
		return fmt.Errorf("guest %s wrote %d of %d lines: %w; its console: %s", name, now-first, n, err, h.console(name))
	}
	return nil
}

// WaitSaid waits until a Linux guest has said a line that contains text.
func (h *Host) WaitSaid(ctx context.Context, name, text string) error {
	err := Await(ctx, strconv.Quote(text), func() (bool, error) {
		b, err := os.ReadFile(h.SerialLog(name))
		return strings.Contains(string(b), text), err
	})
	if err != nil {
		return fmt.Errorf("guest %s: %w; its console: %s", name, err, h.console(name))
	}
	return nil
}

// console is the end of what a guest said on its serial line.
func (h *Host) console(name string) string {
	b, err := os.ReadFile(h.SerialLog(name))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-1000):])
}

// linuxFiles is what a Linux guest boots from.
type linuxFiles struct{ kernel, initramfs []byte }

// linuxBoot makes the files, once a process.
var linuxBoot = sync.OnceValues(func() (files linuxFiles, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return files, err
	}
	packages := initramfs.Packages(filepath.Join(cache, linuxCache))
	kernel, err := packages.Kernel()
	if err != nil {
		return files, err
	}
	if files.kernel, err = os.ReadFile(kernel); err != nil {
		return files, err
	}
	files.initramfs, err = linuxArchive(packages)
	return files, err
})
