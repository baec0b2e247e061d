# virt-rotate: build, test, show.
CHECKOUT := $(shell packaging/version.sh)
SET      := -X main.version=$(word 1,$(CHECKOUT)) -X main.commit=$(word 2,$(CHECKOUT)) -X main.date=$(word 3,$(CHECKOUT))
TAGS    := -tags libvirt_dlopen
LINT    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0
GO      ?= go
FUZZTIME ?= 30s
CHAINS  ?= 20000
DOMAINS ?= 20000
SEED    ?= $(shell date +%s)
SOAK    ?= 500
# LIMIT is for a package that goes round in circles; what waits for something says so itself, long before.
LIMIT   ?= 6h
# SUITES are those of Debian that make matrix runs the integration tests with.
SUITES  ?= bookworm trixie sid
# SINGLE are tests that do one thing many times, with nothing beside it: replays of crashes, random hosts, large pages. The
# race detector would only slow them down. -count=1: for its cache, go test keeps in memory which files each test has
# opened, and these open millions.
SINGLE  := Dies(Anywhere|Loses)|DieRepeatedly|TestACallThatFails|AtRandom|ShortestChains|ASmallLayerIsPulled|HostsWithAnything|PageOfManyGuests|DamagedBit|PowerLossInALastRun
# ALONE are packages in which nothing runs side by side, or what does has tests of its own below: they work on many
# images, which the race detector makes slow.
ALONE   := internal/chain/chaintest internal/cli vhdbridge vhdbridge/vhd vhdbridge/lvm2 vhdbridge/pool vhdbridge/xva
PREFIX  ?= /usr/local
export GOFLAGS := -buildvcs=false

.PHONY: all build test unit integration guests crash files hosts nfs rotations hands increments soak lint fuzz fuzz-chains fuzz-domains bench demo install uninstall packages tarball test-packages test-page docs matrix matrix-clean test-monitoring tools clean

all: build

build: ## one binary, bin/virt-rotate; it starts on hosts without libvirt too
	CGO_ENABLED=1 $(GO) build $(TAGS) -trimpath -ldflags '$(SET)' -o bin/virt-rotate ./cmd/virt-rotate

test: tools unit integration ## everything, on real guests

unit:
	$(GO) vet $(TAGS) ./...
	$(GO) vet $(TAGS),failpoint ./rotate ./cmd/... ./internal/cli/...
	CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/virt-rotate
	$(GO) run ./internal/archdoc -check
	$(GO) test $(TAGS) -count=1 -race -timeout $(LIMIT) -skip '$(SINGLE)' $$($(GO) list $(TAGS) ./cmd/... ./rotate/... ./internal/... ./policy/... ./vhdbridge/... | grep -v $(ALONE:%=-e %$$))
	$(GO) test $(TAGS) -count=1 -race -timeout $(LIMIT) -run '^TestACompact' -skip /2097152 ./qcow2 # nothing else in there runs side by side; large clusters only take longer
	$(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -run '$(SINGLE)' ./rotate ./internal/libvirthost ./internal/page ./internal/history ./internal/convert
	$(GO) test $(TAGS) -count=1 -timeout $(LIMIT) ./qcow2 $(ALONE:%=./%)
	cd testdata/outside && $(GO) vet ./... && $(GO) test ./... && $(GO) run . # a module of somebody else, on the packages for others

integration:
	$(GO) test $(TAGS) -count=1 -p 1 -timeout $(LIMIT) ./integration/... # one package after the other: guests need the processor

guests: tools ## all tests with real guests, those that make test leaves out as well
	VIRT_ROTATE_GUESTS=all $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) ./integration

crash: tools ## long sweep: many more random kills
	VIRT_ROTATE_CRASH_STATES=50000 $(GO) test $(TAGS) -timeout 4h ./internal/chain/chaintest ./vhdbridge/...
	VIRT_ROTATE_CRASH_STATES=50000 $(GO) test $(TAGS) -timeout 4h -run Crash ./qcow2
	VIRT_ROTATE_CRASH_STATES=50000 $(GO) test $(TAGS) -timeout 4h -run '$(SINGLE)' ./rotate
	VIRT_ROTATE_KILLS=200 $(GO) test $(TAGS) -timeout 4h -run 'Kill|Crash|FullStorage' ./integration/...
	VIRT_ROTATE_STARTS=200 $(GO) test $(TAGS) -timeout 4h -run 'IsStartedInAnOffline' ./integration

rotations: tools ## ten rotations of each kind of guest
	VIRT_ROTATE_TEN=1 VIRT_ROTATE_GUESTS=all $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -run 'TestTenRotations|TestRotationByGrafts|TestAGuestGoesOnFromItsMemory' ./integration

hands: tools ## all that docs/hands.md tells, on real guests
	VIRT_ROTATE_HANDS=all $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -run 'ByHand|WhatHandsDo' ./integration

hosts: tools ## two hosts with one storage, all layouts, in namespaces; as root
	VIRT_ROTATE_HOSTS=all $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -v ./integration/hosts
	VIRT_ROTATE_ETCD_CYCLES=1000 $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -v -run "MembersDie|MembersHang" ./rotate/coord/etcd
	VIRT_ROTATE_HOSTS=all $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -v -run FinishedOnAnotherHost ./rotate

nfs: ## hosts that share real NFS: virtual machines of Debian's kernel, one of which loses its power; needs apt-get
	integration/nfs/tools.sh
	VIRT_ROTATE_NFS=1 $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -v ./integration/nfs

increments: tools ## ten nights of increments of an export, and an import of each
	VIRT_ROTATE_NIGHTS=10 $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -run '^TestNightlyIncrements$$' -v ./integration

files: tools ## trees of a million files, and all that libguestfs does for ls, cp, mount and diff
	VIRT_ROTATE_FILES=1000000 $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) ./internal/filetree
	VIRT_ROTATE_LIBGUESTFS=1 $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -run 'Libguestfs|LinesInTheHelp' ./integration

soak: tools ## thirty days of a host with four guests, as fast as they go by, with kills at random
	VIRT_ROTATE_SOAK=$(SOAK) VIRT_ROTATE_SEED=$(SEED) $(GO) test $(TAGS) -timeout 24h -run '^TestSoak$$' -v ./integration

matrix: ## demo and integration tests with the libvirt and QEMU of other suites of Debian; as root
	$(GO) run ./integration/matrix -suites "$(SUITES)" -write

matrix-clean: ## the roots of the suites, which make matrix keeps
	rm -rf $${XDG_CACHE_HOME:-$$HOME/.cache}/virt-rotate/matrix

test-monitoring: ## icinga2 runs check as the example has it
	integration/monitoring/icinga.sh
	$(GO) test $(TAGS),icinga -count=1 -timeout $(LIMIT) -run Icinga ./integration/monitoring

lint:
	$(GO) run $(LINT) run ./...

fuzz:
	$(GO) test -run '^$$' -fuzz FuzzParse -fuzztime $(FUZZTIME) ./policy
	$(GO) test -run '^$$' -fuzz FuzzReadHeader -fuzztime $(FUZZTIME) ./qcow2
	$(GO) test -run '^$$' -fuzz FuzzCheck -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./qcow2
	$(GO) test -run '^$$' -fuzz FuzzCompact -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./qcow2
	$(GO) test -run '^$$' -fuzz FuzzReadHeaders -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./vhdbridge/vhd
	$(GO) test -run '^$$' -fuzz FuzzCheck -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./vhdbridge/vhd
	$(GO) test -run '^$$' -fuzz FuzzRelease -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./vhdbridge/vhd
	$(GO) test -run '^$$' -fuzz FuzzCommitVHD -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./internal/chain/chaintest
	$(GO) test -run '^$$' -fuzz 'FuzzCommit$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./internal/chain/chaintest

fuzz-chains: ## random chains of images against qemu-img, also with small rounds and caches
	VIRT_ROTATE_CHAINS=$(CHAINS) VIRT_ROTATE_SEED=$(SEED) $(GO) test $(TAGS) -timeout 48h ./integration/images
	integration/images/smallrounds.sh bin/smallrounds
	VIRT_ROTATE_CHAINS=$(CHAINS) VIRT_ROTATE_SEED=$(SEED) VIRT_ROTATE_SMALL_ROUNDS=1 \
		$(GO) test $(TAGS) -overlay bin/smallrounds/overlay.json -timeout 48h ./integration/images

fuzz-domains: ## hosts made up of all that libvirt's XML allows, and of some that it does not
	VIRT_ROTATE_DOMAINS=$(DOMAINS) VIRT_ROTATE_SEED=$(SEED) $(GO) test $(TAGS) -count=1 -timeout $(LIMIT) -run '^TestHostsWithAnything$$' -v ./internal/libvirthost

bench: tools build ## ratios against virsh and qemu-img, measured in the same run
	$(GO) run $(TAGS) ./integration/bench

demo: tools build ## a throw-away guest, rotated before your eyes
	$(GO) run $(TAGS) ./integration/demo

tools:
	@./integration/tools.sh

# No Go is needed where the binary is there: make, then sudo make install.
install: bin/virt-rotate ## binary, manual, completion, units and examples below PREFIX (/usr/local) and DESTDIR
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' packaging/install.sh

uninstall: ## what make install has installed, with the same PREFIX and DESTDIR; policy and state stay
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' packaging/install.sh --uninstall

bin/virt-rotate:
	$(MAKE) build

packages: ## deb, rpm and apk by nfpm, and a static tarball without libvirt, in bin/packages
	GO=$(GO) packaging/build.sh deb rpm apk tarball

tarball: ## the static tarball alone
	GO=$(GO) packaging/build.sh tarball

test-packages: ## the packages on fresh Debian systems with systemd, and a real guest; as root
	integration/packages/tools.sh
	$(GO) test $(TAGS),packages -count=1 -timeout $(LIMIT) -v ./integration/packages

test-page: ## the page of report, and Cockpit's on a Debian system with systemd, in headless Chromium; as root
	integration/page/tools.sh
	$(GO) test $(TAGS),page -count=1 -timeout $(LIMIT) -v ./integration/page

docs: ## the picture and the table of packages in docs/, made of their imports; needs graphviz
	$(GO) run ./internal/archdoc

clean:
	rm -rf bin
