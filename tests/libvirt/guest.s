# guest.s - the whole software of a guest: 512 bytes that the BIOS loads.
#
# Round n writes three sectors in the middle of a granule of the first disk,
# reads a sector of which it knows how it begins, and then notes n + 1 in
# sector 2, with the number of things that went wrong.  So what the guest was
# told is written can be compared with what is on the disk afterwards.
#
#   as --32, ld -m elf_i386 --oformat binary -Ttext 0x7c00
#
# The layout is that of test-qemu.py.
#
# SPDX-License-Identifier: LGPL-2.1-or-later

	.equ	WRITE_BASE, 16384	# sectors: at 8 MiB
	.equ	READ_BASE, 65536	# at 32 MiB
	.equ	MASK, 1023		# granules written, and sectors read
	.equ	NOTE, 2
	.equ	MAGIC, 0x42460000
	.equ	BUFFER, 0x8000

	.code16
	.globl	_start
_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	sti
	cld
	movb	%dl, drive
	xorl	%ebx, %ebx		# n
	xorl	%ebp, %ebp		# errors

round:
	# index = n * 7 % 1024
	imull	$7, %ebx, %esi
	andl	$MASK, %esi

	# Three sectors full of MAGIC + n at sector 1 of the granule.
	movl	%ebx, %eax
	addl	$MAGIC, %eax
	movw	$BUFFER, %di
	movw	$384, %cx
	rep stosl
	movl	%esi, %eax
	shll	$3, %eax
	addl	$WRITE_BASE + 1, %eax
	movw	$3, %cx
	movb	$0x43, %dh
	call	disk

	# A sector that begins with its number.
	movl	%esi, %eax
	shll	$5, %eax
	addl	$READ_BASE, %eax
	pushl	%eax
	movw	$1, %cx
	movb	$0x42, %dh
	call	disk
	popl	%eax
	cmpl	%eax, BUFFER
	je	1f
	incl	%ebp
1:
	incl	%ebx
	movl	%ebx, BUFFER
	movl	%ebp, BUFFER + 4
	movl	$NOTE, %eax
	movw	$1, %cx
	movb	$0x43, %dh
	call	disk

	# 2 ms
	xorw	%cx, %cx
	movw	$2000, %dx
	movb	$0x86, %ah
	int	$0x15
	jmp	round

# %dh: the function; %eax: sector; %cx: how many.  Keeps %ebx, %esi, %ebp.
disk:
	movl	%eax, packet + 8
	movw	%cx, packet + 2
	pushal
	movb	%dh, %ah
	xorb	%al, %al
	movb	drive, %dl
	movw	$packet, %si
	int	$0x13
	popal
	jnc	1f
	incl	%ebp
1:
	ret

	.balign	4
packet:
	.byte	16, 0
	.word	1
	.word	BUFFER, 0
	.quad	0
drive:
	.byte	0

	.org	510
	.word	0xaa55
