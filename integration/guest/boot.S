# The operating system of a test guest: 512 bytes that write numbered blocks for ever.
#
# Block k (k = 1, 2, 3 …) is some sectors, at most 8, filled with the eight bytes
# "VROT" and k (32 bits, little endian). It is written to the start of 4096-byte
# slot (k × stride) mod slots of drive 0x81, then of 0x82, and so on for every drive
# that the BIOS counts.
# Each write ends before the next begins, so the drives always hold a prefix of
# the numbered writes. After each batch a dot goes to COM1, and the processor
# sleeps for some timer ticks (55 ms each).
#
# At boot, a binary search on drive 0x81 finds the last block written, and
# counting goes on from there: that block is written once more, for the drives
# that it had not yet reached.
#
# Memory: the code at 0x7c00, the block at 0x8000, the stack below 0x7c00.

	.code16
	.text
	.globl	_start
	.equ	blockAt, 0x8000
	.equ	magic, 0x544f5256	# "VROT"
	.equ	com1, 0x3f8
	.equ	ticks, 0x46c		# BIOS data area: timer ticks since midnight
	.equ	drives, 0x475		# BIOS data area: number of hard disks

_start:
	ljmp	$0, $begin
	.balign	4
	# Patched by Params.bootSector: keep the offsets, 8 … 21.
slots:	.long	1024
stride:	.long	1
batch:	.word	16
pause:	.word	1
length:	.word	1			# sectors in a block

begin:
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$_start, %sp
	sti
	cld
	movw	batch, %ax
	movw	%ax, left

	# %ebp = value of block 1's slot, that is the first k of the current round,
	# or 0 when the disk is empty.
	movl	$1, %ebx
	call	stampOf
	movl	%eax, %ebp
	testl	%eax, %eax
	jz	fresh

	# The largest j in 1 … slots with stamp(j) == %ebp + j - 1.
	# %esi: known good, %edi: known bad.
	movl	$1, %esi
	movl	slots, %edi
	incl	%edi
search:	movl	%edi, %ebx
	subl	%esi, %ebx
	cmpl	$1, %ebx
	jbe	found
	shrl	$1, %ebx
	addl	%esi, %ebx		# the middle
	call	stampOf
	leal	-1(%ebp,%ebx), %ecx
	cmpl	%ecx, %eax
	jne	bad
	movl	%ebx, %esi
	jmp	search
bad:	movl	%ebx, %edi
	jmp	search
found:	leal	-1(%ebp,%esi), %ebx
	jmp	write
fresh:	movl	$1, %ebx

	# %ebx = k
write:	movl	%ebx, %eax
	call	locate
	movw	$blockAt, %di
	movw	$512, %cx
fill:	movl	$magic, %eax
	stosl
	movl	%ebx, %eax
	stosl
	loop	fill

	movb	$0x81, %dl
drive:	movb	drives, %al
	addb	$0x80, %al
	cmpb	%al, %dl
	jae	written
	movw	$0x4300, %ax		# extended write, no verify
	call	disk
	incb	%dl
	jmp	drive

written:
	incl	%ebx
	decw	left
	jnz	write
	movw	batch, %ax
	movw	%ax, left
	movb	$'.', %al
	call	print

	movw	pause, %cx
	jcxz	write
sleep:	movl	ticks, %eax
tick:	hlt
	cmpl	ticks, %eax
	je	tick
	loop	sleep
	jmp	write

# stampOf reads the slot of block %ebx on drive 0x81 into %eax: its number, or 0.
stampOf:
	movl	%ebx, %eax
	call	locate
	movb	$0x81, %dl
	movb	$0x42, %ah		# extended read
	call	disk
	xorl	%eax, %eax
	cmpl	$magic, blockAt
	jne	1f
	movl	blockAt+4, %eax
1:	ret

# locate sets the packet's sector for block %eax.
locate:
	mull	stride
	divl	slots
	movl	%edx, %eax
	xorl	%edx, %edx
	shll	$3, %eax		# 8 sectors a slot
	movl	%eax, sector
	ret

# disk does the int 13h call %ah on drive %dl, and again until it succeeds.
# It keeps all registers.
disk:	pushal
again:	pushal
	movw	length, %si
	movw	%si, count		# the BIOS overwrites it on failure
	movw	$packet, %si
	int	$0x13
	popal
	jnc	1f
	pushal
	movb	$'!', %al
	call	print
	popal
	hlt
	jmp	again
1:	popal
	ret

# print sends %al to COM1.
print:	movb	%al, %ah
	movw	$com1+5, %dx
1:	inb	%dx, %al
	testb	$0x20, %al		# transmitter empty
	jz	1b
	movw	$com1, %dx
	movb	%ah, %al
	outb	%al, %dx
	ret

left:	.word	0
	.balign	4
packet:	.byte	16, 0
count:	.word	0
	.word	blockAt, 0		# offset, segment
sector:	.long	0, 0

	.org	510
	.word	0xaa55
