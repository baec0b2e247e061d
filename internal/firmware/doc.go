// Package firmware keeps what a guest's firmware remembers beside the disks: the UEFI variables
// (NVRAM) and the state of an emulated TPM, as one file for each snapshot, and puts it back.
//
//	state, err := firmware.Read(place)                        // into memory
//	err = state.Write(path, firmware.Label{Domain: "web", …}) // durable, whole or not at all
//	state, label, err := firmware.Load(path)
//	err = state.Put(place)                                    // while the guest is off
//
// Variables that XenServer has kept of a guest become those of OVMF, as far as it boots by them
// (Varstored, ForBoot, WithVariables).
//
// The file is a tar archive, which needs no virt-rotate to be read: label.json, nvram, and the files of
// the TPM under tpm/, with mode and owner. What holds: a file that Load accepts is whole, for its label has
// the sum of all that follows; nothing of it leads out of the places that Put is given; and Put changes each
// file whole or not at all.
package firmware
