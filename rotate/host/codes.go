package host

// Codes of refusals: stable names for scripts and for the manual.
const (
	CodeRemote         = "remote"             // files of another host
	CodeState          = "state"              // a state in which chains must not change
	CodeTransient      = "transient"          // no persistent configuration
	CodeManagedSave    = "managed-save"       // a saved state refers to the chain
	CodeInternal       = "internal-snapshots" // snapshots inside the images
	CodeAdoption       = "adoption"           // one of internal snapshots was interrupted
	CodeBlockJob       = "block-job"          // somebody else's job runs
	CodeNetworkDisk    = "network-disk"
	CodeVolumeDisk     = "volume-disk"
	CodeDiskKind       = "disk-type"
	CodeShareable      = "shareable-disk"
	CodeTransDisk      = "transient-disk"
	CodeEncrypted      = "encrypted"
	CodeDataFile       = "data-file"
	CodeFormat         = "format"
	CodeCorrupt        = "corrupt"
	CodeUnreadable     = "unreadable"
	CodeMismatch       = "chain-mismatch" // XML and image headers disagree
	CodeInactive       = "configuration-differs"
	CodeNoDisk         = "no-disk"
	CodeOverlayDir     = "overlay-dir"
	CodeNameTooLong    = "name-too-long"
	CodeChainLong      = "chain-too-long"
	CodeNoSpace        = "no-space"
	CodeSize           = "size"
	CodeIOError        = "io-error"
	CodeRestart        = "restart-needed" // libvirt does not know the chain of the running guest
	CodeForeign        = "foreign-snapshot"
	CodeStopped        = "stopped-in-pivot" // the guest stopped while it was moved to the base
	CodeLeftover       = "leftover"
	CodeStale          = "stale-metadata"  // a snapshot's state is not where its metadata says
	CodeForeignOverlay = "foreign-overlay" // another program's overlay above one of ours
	CodeShared         = "shared-disk"     // another domain uses the same active image
	CodeIntent         = "intent"          // the intent of an earlier run cannot be read
	CodeMethod         = "method"
	CodeNoGuestAgent   = "no-guest-agent"
	CodeHook           = "hook"             // the policy's hook before the work failed
	CodeFault          = "fault"            // a fault of virt-rotate itself
	CodeDoubt          = "unreadable-image" // an image that could build on a layer
	CodeDestroyed      = "lost-snapshot"    // a guest has written to what its state builds on
	CodeCheckpoints    = "checkpoints"      // of a guest that is off
	CodeLocalLocks     = "local-locks"      // of a shared storage that is mounted without locks
	CodeLiveOnly       = "live-only-disk"   // the persistent configuration lacks it
	CodeComma          = "comma-in-name"    // libvirt mixes up such names while the guest is off
	CodeInUse          = "in-use"           // a process has an image of a guest that is off open
	CodeMetadata       = "metadata"         // what libvirt has on record holds what could not be kept
	CodeTwoPolicies    = "two-policies"     // several policies match the domain
	CodePinned         = "pinned"           // a person wants the snapshot to stay
	CodeNameTaken      = "name-taken"       // there is a snapshot of that name
	CodeMemory         = "memory"           // a guest's memory cannot be kept, or not be gone back to
	CodeElsewhere      = "other-host"       // the guest is another host's
	CodeHosts          = "unheard-host"     // what a host uses of a shared storage is not known
	CodeOwnPolicy      = "own-policy"       // the policy in the domain's metadata is at fault
)
