package rotate

import (
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/firmware"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/journal"
)

// keepFirmware writes the state of the guest's firmware into the file of the snapshot that is to be
// taken, and returns it. What cannot be read costs the copy, not the snapshot.
func (r *domainRun) keepFirmware(d *host.Domain, spec *host.SnapshotSpec, in *journal.Intent) (*firmware.State, error) {
	if spec.Firmware == "" {
		return nil, nil
	}
	state := r.readFirmware(d)
	if state.Empty() {
		r.withoutFirmware(spec)
		return nil, nil
	}
	if err := r.makeBeside(spec.Firmware, &in.Firmware, in); err != nil {
		return nil, fmt.Errorf("a file for UEFI variables and TPM state: %w", err)
	}
	label := firmware.Label{Domain: d.Name, UUID: d.UUID, Snapshot: spec.Name, Taken: r.Clock()}
	if err := state.Fill(spec.Firmware, label); err != nil {
		return nil, fmt.Errorf("UEFI variables and TPM state: %w", err)
	}
	r.boundary("firmware's state written")
	return state, nil
}

// readFirmware warns of what it cannot read, which is left out.
func (r *domainRun) readFirmware(d *host.Domain) *firmware.State {
	state, err := firmware.Read(firmware.Place(d.Firmware))
	switch {
	case err != nil:
		r.warn(d.Name, "UEFI variables and TPM state are not copied: "+err.Error())
		return &firmware.State{}
	case state.NVRAM == nil && d.UEFI && d.State.Live():
		r.warn(d.Name, "the guest's UEFI variables were not found, and are not copied")
	}
	return state
}

// makeBeside makes a file beside the layers, empty, as an overlay is made: the intent names it before it is
// there, and its inode before anything is in it. named is where the intent does so.
func (r *domainRun) makeBeside(path string, named **journal.File, in *journal.Intent) error {
	*named = &journal.File{Path: path}
	if err := r.record(in); err != nil {
		return err
	}
	r.boundary("intent of a file beside the layers")
	info, err := vfs.CreateExclusive(path, overlayMode)
	if err != nil { // what is there is not ours: take it out of the intent
		*named = nil
		return errors.Join(err, r.record(in))
	}
	r.boundary("a file beside the layers made")
	(*named).ID = info.ID
	return r.record(in)
}

// withoutFirmware takes the file out of what the snapshot is to be.
func (r *domainRun) withoutFirmware(spec *host.SnapshotSpec) {
	spec.Firmware = ""
	if mark, ok := host.ParseMark(spec.Description); ok {
		mark.Firmware = ""
		spec.Description = mark.String()
	}
}

// compareFirmware tells if the state was changed while the snapshot was taken: then it is not
// known to be of the same moment as the disks.
func (r *domainRun) compareFirmware(d *host.Domain, before *firmware.State) {
	if before == nil {
		return
	}
	after, err := firmware.Read(firmware.Place(d.Firmware))
	switch {
	case err != nil:
		r.warn(d.Name, "it is not known whether UEFI variables and TPM state changed while the snapshot was taken: "+err.Error())
	case !after.Same(before):
		r.warn(d.Name, "UEFI variables or TPM state changed while the snapshot was taken: their copy is of the moment before")
	}
}

// firmwareToPut reads the state that a restore puts back.
func firmwareToPut(d *host.Domain, snapshot, path string) (*firmware.State, error) {
	state, label, err := firmware.Load(path)
	switch {
	case err != nil:
		return nil, err
	case label.UUID != d.UUID || label.Snapshot != snapshot:
		return nil, fmt.Errorf("%s: it is of snapshot %s of %s (%s)", path, label.Snapshot, label.Domain, label.UUID)
	case state.NVRAM != nil && d.Firmware.NVRAM == "":
		return nil, errors.New("it is not known where the domain's UEFI variables are")
	case len(state.TPM) > 0 && d.Firmware.TPM == "":
		return nil, errors.New("it is not known where the state of the domain's TPM is")
	}
	return state, nil
}
