package sr

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/firmware"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/vhdbridge"
)

// uefiMachine stands for all versions of the machine that guests get.
const uefiMachine = "pc-i440fx-7.2"

// A varsFile is the file with the variables of a guest's firmware, that is to be made.
type varsFile struct {
	firmware libvirthost.Firmware
	content  []byte
}

// firmware is the guest's, with the variables that it boots by; nil: it is left to libvirt.
func (d *target) firmware() (*libvirthost.Firmware, error) {
	if d.vars != nil {
		return &d.vars.firmware, nil
	}
	if d.guest.Variables == nil {
		return nil, nil
	}
	vars, err := firmware.Varstored(d.guest.Variables)
	if err != nil {
		d.note("its firmware's variables cannot be read: %v", err)
		return nil, nil
	}
	if vars = firmware.ForBoot(vars); len(vars) == 0 {
		return nil, nil
	}
	v := &varsFile{}
	if v.firmware.Code, v.firmware.Template, err = firmware.FindUEFI(uefiMachine); err != nil {
		return nil, err
	}
	template, err := os.ReadFile(v.firmware.Template)
	if err != nil {
		return nil, err
	}
	if v.content, err = firmware.WithVariables(template, vars); err != nil {
		d.note("its firmware's variables are left out: %v", err)
		return nil, nil
	}
	dir, err := filepath.Abs(d.String("to"))
	if err != nil {
		return nil, err
	}
	v.firmware.Variables = filepath.Join(dir, vhdbridge.FileName(d.name, true)+"_VARS.fd")
	if _, err := os.Lstat(v.firmware.Variables); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, &chain.RefusedError{Path: v.firmware.Variables, Reason: "it is there already: it is left as it is"})
	}
	d.vars = v
	return &v.firmware, nil
}

// write makes the file, where none may be.
func (v *varsFile) write() error {
	if v == nil {
		return nil
	}
	f, err := os.OpenFile(v.firmware.Variables, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(v.content)
	return errors.Join(err, f.Sync(), f.Close())
}

func (v *varsFile) remove() error {
	if v == nil {
		return nil
	}
	return os.Remove(v.firmware.Variables)
}
