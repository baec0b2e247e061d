package guests

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/virt-rotate/virt-rotate/internal/bundle"
	"github.com/virt-rotate/virt-rotate/internal/firmware"
)

// putFirmware lets the guest, which is defined by now and has never run, begin with the UEFI
// variables of the export. What goes wrong is told, and no reason to take the guest back: it starts with fresh ones. The
// state of a TPM stays in the export: only libvirt knows under whose name it is to be here.
func (i *importer) putFirmware() {
	file := i.bundle.Kind(bundle.KindFirmware)
	if file == nil {
		return
	}
	path := filepath.Join(i.bundle.Dir, file.File)
	state, _, err := firmware.Load(path)
	if err == nil && len(state.TPM) > 0 {
		i.report.Notes = append(i.report.Notes, "the TPM begins empty: what it had is in "+path+", under tpm/")
	}
	if err == nil && state.NVRAM != nil {
		err = i.putVariables(state)
	}
	if err != nil {
		i.report.Notes = append(i.report.Notes, "the guest starts with fresh UEFI variables: "+err.Error())
	}
}

func (i *importer) putVariables(state *firmware.State) error {
	w, err := i.look()
	if err != nil {
		return err
	}
	d := w.Domain(i.report.Domain)
	if d == nil || d.Firmware.NVRAM == "" {
		return errors.New("it is not known where libvirt will look for them")
	}
	if there, err := firmware.Read(firmware.Place{NVRAM: d.Firmware.NVRAM}); err != nil || !there.Empty() {
		return fmt.Errorf("%s is there already: it is left as it is", d.Firmware.NVRAM)
	}
	i.report.Notes = append(i.report.Notes, "UEFI variables of the export are in "+d.Firmware.NVRAM)
	return state.Put(firmware.Place{NVRAM: d.Firmware.NVRAM})
}
