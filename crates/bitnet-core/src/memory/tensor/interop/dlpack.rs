//! DLPack: tensors handed over in place, as a pointer to a structure with a destructor.
//!
//! The structures are those of DLPack 1.x. Whoever holds such a pointer owns it and calls its deleter once. We hand out
//! the versioned form, which says that it must not be written, and the older one for writing; we take both.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::sync::Arc;

use bitnet_backend::{BitNetDType, BitNetError, Device, DlpackType, ErrorKind, Result};

use crate::memory::tensor::{BitNetTensor, Layout, TensorMemory, TensorMetadata};

/// `DLPackVersion`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DlpackVersion {
    /// Another number has other structures.
    pub major: u32,
    /// A greater number has more types and flags.
    pub minor: u32,
}

/// `DLDevice`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DlDevice {
    /// 1 for host memory.
    pub device_type: i32,
    /// Ordinal.
    pub device_id: i32,
}

/// `DLDataType`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DlDataType {
    /// Kind, as in [`DlpackType`].
    pub code: u8,
    /// Bits of a lane.
    pub bits: u8,
    /// Lanes of an element.
    pub lanes: u16,
}

/// `DLTensor`.
#[repr(C)]
#[derive(Debug)]
pub struct DlTensor {
    /// Address from which `byte_offset` counts.
    pub data: *mut c_void,
    /// Where the memory is.
    pub device: DlDevice,
    /// Dimensions.
    pub ndim: i32,
    /// Element type.
    pub dtype: DlDataType,
    /// Length of each dimension.
    pub shape: *mut i64,
    /// Elements between neighbours along each dimension; null for row-major.
    pub strides: *mut i64,
    /// Bytes from `data` to the element at index 0 of every dimension.
    pub byte_offset: u64,
}

/// `DLManagedTensor`, the form before version 1.
#[repr(C)]
#[derive(Debug)]
pub struct DlManagedTensor {
    /// The tensor.
    pub dl_tensor: DlTensor,
    /// What the deleter needs.
    pub manager_ctx: *mut c_void,
    /// Frees everything; called once by the owner.
    pub deleter: Option<unsafe extern "C" fn(*mut DlManagedTensor)>,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
#[derive(Debug)]
pub struct DlManagedTensorVersioned {
    /// Version of these structures.
    pub version: DlpackVersion,
    /// What the deleter needs.
    pub manager_ctx: *mut c_void,
    /// Frees everything; called once by the owner.
    pub deleter: Option<unsafe extern "C" fn(*mut DlManagedTensorVersioned)>,
    /// Bit 0: read-only; bit 1: a copy; bit 2: types below a byte take one each.
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DlTensor,
}

const _: () = {
    assert!(size_of::<DlDataType>() == 4 && size_of::<DlDevice>() == 8);
    if size_of::<usize>() == 8 {
        assert!(size_of::<DlTensor>() == 48 && size_of::<DlManagedTensor>() == 64);
        assert!(size_of::<DlManagedTensorVersioned>() == 80);
        assert!(std::mem::offset_of!(DlManagedTensorVersioned, dl_tensor) == 32);
    }
};

const VERSION: DlpackVersion = DlpackVersion { major: 1, minor: 1 };
const HOST: DlDevice = DlDevice { device_type: 1, device_id: 0 };
const READ_ONLY: u64 = 1;
const SUBBYTE_PADDED: u64 = 4;
/// Most dimensions that are taken.
const MAX_RANK: usize = 64;

/// What an exported structure keeps alive and points to.
struct Exported<M> {
    managed: M,
    _shape: Vec<i64>,
    _strides: Vec<i64>,
    _tensor: BitNetTensor,
}

/// A tensor as DLPack hands it over; freed on drop, unless its pointer is taken.
pub struct DlpackTensor<M> {
    managed: NonNull<M>,
    delete: unsafe extern "C" fn(*mut M),
}

impl<M> DlpackTensor<M> {
    /// Returns the structure.
    pub fn as_ptr(&self) -> *mut M {
        self.managed.as_ptr()
    }

    /// Gives the structure away: who takes it calls its deleter once, on any thread.
    pub fn into_raw(self) -> *mut M {
        let managed = self.managed.as_ptr();
        std::mem::forget(self);
        managed
    }
}

impl<M> Drop for DlpackTensor<M> {
    fn drop(&mut self) {
        // SAFETY: the structure was made by `export` together with this deleter, and was not given away.
        unsafe { (self.delete)(self.managed.as_ptr()) }
    }
}

impl<M> fmt::Debug for DlpackTensor<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DlpackTensor({:p})", self.managed)
    }
}

impl BitNetTensor {
    /// Hands the tensor over for reading, in place and with its strides. The memory stays as long as the structure does.
    ///
    /// # Errors
    /// `Unsupported` for ternary types, which DLPack does not have, for a tensor with a scale, and for memory that the
    /// host cannot address.
    pub fn to_dlpack(&self) -> Result<DlpackTensor<DlManagedTensorVersioned>> {
        let parts = parts_of(self)?;
        let data = self.memory().bytes().as_ptr().wrapping_add(parts.start).cast_mut();
        Ok(export(parts, data, self.clone(), |tensor| DlManagedTensorVersioned {
            version: VERSION,
            manager_ctx: null_mut(),
            deleter: Some(delete::<DlManagedTensorVersioned>),
            flags: READ_ONLY,
            dl_tensor: tensor,
        }))
    }

    /// Hands the tensor over for reading and writing, in the form before version 1, which cannot say read-only.
    ///
    /// # Errors
    /// As [`to_dlpack`](Self::to_dlpack); `Mismatch` when another tensor shares the memory; `Unsupported` when it is
    /// read-only, and for packed types, which that form does not tell from padded ones.
    pub fn into_dlpack_writable(mut self) -> Result<DlpackTensor<DlManagedTensor>> {
        let parts = parts_of(&self)?;
        if self.dtype().is_packed() {
            return Err(not_exported(&self, "that form cannot say that elements are packed; to_dlpack can"));
        }
        let count = Arc::strong_count(&self.memory);
        let Some(memory) = Arc::get_mut(&mut self.memory) else {
            return Err(BitNetError::mismatch(
                "references to the memory of a tensor to be written",
                1,
                count,
            ));
        };
        let data = memory.bytes_mut()?.as_mut_ptr().wrapping_add(parts.start);
        Ok(export(parts, data, self, |tensor| DlManagedTensor {
            dl_tensor: tensor,
            manager_ctx: null_mut(),
            deleter: Some(delete::<DlManagedTensor>),
        }))
    }

    /// Takes a tensor over, in place and with its strides; its deleter is called when the last tensor in its memory
    /// goes, on whatever thread that is, and also when it is refused.
    ///
    /// # Safety
    /// - `managed` points to a structure as DLPack 1.x defines it, which the caller owns and does not use any more.
    /// - Until the deleter is called, the memory that its shape and strides reach is readable and nobody writes to it.
    /// - The deleter may be called on any thread.
    ///
    /// # Errors
    /// `Mismatch` for another major version, and for what the structure states that cannot be: element types that we do
    /// not have, lengths below zero, elements that are not aligned or beyond the address space; `DeviceUnavailable` for
    /// memory that is not the host's.
    pub unsafe fn from_dlpack(managed: NonNull<DlManagedTensorVersioned>) -> Result<Self> {
        // SAFETY: by this function's contract. Nothing but the version is read before it is known to be ours.
        let version = unsafe { (*managed.as_ptr()).version };
        let owner = Owner { managed, delete: delete_versioned };
        if version.major != VERSION.major {
            let found = format!("{}.{}", version.major, version.minor);
            return Err(BitNetError::mismatch("version of a DLPack tensor", "1.x", found));
        }
        // SAFETY: by this function's contract, of a structure of this version.
        let structure = unsafe { managed.as_ref() };
        let packed = structure.flags & SUBBYTE_PADDED == 0;
        // SAFETY: as above; `owner` keeps it.
        unsafe { take(&structure.dl_tensor, packed, owner) }
    }

    /// Takes over a tensor in the form before version 1.
    ///
    /// # Safety
    /// As [`from_dlpack`](Self::from_dlpack).
    ///
    /// # Errors
    /// As [`from_dlpack`](Self::from_dlpack).
    pub unsafe fn from_dlpack_unversioned(managed: NonNull<DlManagedTensor>) -> Result<Self> {
        let owner = Owner { managed, delete: delete_unversioned };
        // SAFETY: by this function's contract; `owner` keeps the structure.
        unsafe { take(&managed.as_ref().dl_tensor, false, owner) }
    }
}

struct Parts {
    shape: Vec<i64>,
    strides: Vec<i64>,
    dtype: DlpackType,
    /// First byte of the tensor in its memory.
    start: usize,
}

fn parts_of(tensor: &BitNetTensor) -> Result<Parts> {
    let unsupported = |reason| not_exported(tensor, reason);
    if !tensor.device().is_cpu() {
        return Err(unsupported("the host cannot address its memory"));
    }
    if tensor.scale().is_some() {
        return Err(unsupported("it has a scale, of which DLPack knows nothing"));
    }
    let dtype = tensor.dtype().dlpack().ok_or_else(|| unsupported("DLPack has no ternary types"))?;
    let layout = tensor.layout();
    // An empty tensor begins nowhere.
    let start =
        if tensor.element_count() == 0 { Some(0) } else { tensor.dtype().byte_offset(layout.offset()) };
    Ok(Parts {
        shape: layout.shape().iter().map(|&length| length as i64).collect(),
        strides: layout.strides().iter().map(|&stride| stride as i64).collect(),
        dtype,
        start: start.ok_or_else(|| unsupported("it begins inside a byte"))?,
    })
}

fn not_exported(tensor: &BitNetTensor, reason: &str) -> BitNetError {
    BitNetError::new(ErrorKind::Unsupported {
        backend: "dlpack",
        operation: format!("handing over a {} tensor of shape {:?}", tensor.dtype(), tensor.shape()),
        reason: reason.into(),
    })
}

fn export<M: Managed>(
    parts: Parts,
    data: *mut u8,
    tensor: BitNetTensor,
    wrap: impl FnOnce(DlTensor) -> M,
) -> DlpackTensor<M> {
    let Parts { mut shape, mut strides, dtype: DlpackType { code, bits, lanes }, .. } = parts;
    let managed = wrap(DlTensor {
        data: data.cast(),
        device: HOST,
        ndim: shape.len() as i32,
        dtype: DlDataType { code, bits, lanes },
        // The vectors do not move when they are moved into the box.
        shape: shape.as_mut_ptr(),
        strides: strides.as_mut_ptr(),
        byte_offset: 0,
    });
    let exported =
        Box::into_raw(Box::new(Exported { managed, _shape: shape, _strides: strides, _tensor: tensor }));
    // SAFETY: the box was made in the line above; nobody else has it.
    let managed = unsafe {
        (*exported).managed.set_context(exported.cast());
        &raw mut (*exported).managed
    };
    // SAFETY: a field of a box is not null.
    let managed = unsafe { NonNull::new_unchecked(managed) };
    DlpackTensor { managed, delete: delete::<M> }
}

/// A structure with a context.
trait Managed {
    fn context(&self) -> *mut c_void;
    fn set_context(&mut self, context: *mut c_void);
}

macro_rules! managed {
    ($($type:ty)*) => {$(
        impl Managed for $type {
            fn context(&self) -> *mut c_void {
                self.manager_ctx
            }

            fn set_context(&mut self, context: *mut c_void) {
                self.manager_ctx = context;
            }
        }
    )*};
}

managed!(DlManagedTensor DlManagedTensorVersioned);

/// The deleter of what `export` made.
///
/// # Safety
/// `managed` is null, or was made by `export` of the same type and was not deleted.
unsafe extern "C" fn delete<M: Managed>(managed: *mut M) {
    if let Some(managed) = NonNull::new(managed) {
        // SAFETY: by this function's contract; the context is the box of which `managed` is a part.
        drop(unsafe { Box::from_raw(managed.as_ref().context().cast::<Exported<M>>()) });
    }
}

/// Calls the deleter of a structure that was taken over.
struct Owner<M> {
    managed: NonNull<M>,
    delete: unsafe fn(NonNull<M>),
}

impl<M> Drop for Owner<M> {
    fn drop(&mut self) {
        // SAFETY: the structure is owned, and this is its only owner's end.
        unsafe { (self.delete)(self.managed) }
    }
}

/// # Safety
/// `managed` is owned by the caller, who does not use it any more.
unsafe fn delete_versioned(managed: NonNull<DlManagedTensorVersioned>) {
    // SAFETY: by this function's contract. Version, context and deleter stand where they are in every major version.
    unsafe {
        if let Some(deleter) = (*managed.as_ptr()).deleter {
            deleter(managed.as_ptr());
        }
    }
}

/// # Safety
/// As [`delete_versioned`].
unsafe fn delete_unversioned(managed: NonNull<DlManagedTensor>) {
    // SAFETY: by this function's contract.
    unsafe {
        if let Some(deleter) = (*managed.as_ptr()).deleter {
            deleter(managed.as_ptr());
        }
    }
}

/// Memory that somebody else made.
struct Imported<M> {
    first: *const u8,
    len: usize,
    _owner: Owner<M>,
}

// SAFETY: by the contract of `from_dlpack` nobody writes to the memory until the deleter is called, and that may happen
// on any thread.
unsafe impl<M> Send for Imported<M> {}
// SAFETY: as above; there is no access but reading.
unsafe impl<M> Sync for Imported<M> {}

impl<M> TensorMemory for Imported<M> {
    fn kind(&self) -> &'static str {
        "DLPack tensor"
    }

    fn bytes(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: by the contract of `from_dlpack` these bytes are readable and not written as long as the owner lives;
        // `take` counted them from shape and strides.
        unsafe { slice::from_raw_parts(self.first, self.len) }
    }
}

impl<M> fmt::Debug for Imported<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Imported({} bytes)", self.len)
    }
}

/// Makes a tensor of a structure; `packed` says whether types below a byte are packed.
///
/// # Safety
/// As [`BitNetTensor::from_dlpack`]; `owner` owns the structure of which `tensor` is a part.
unsafe fn take<M: 'static>(tensor: &DlTensor, packed: bool, owner: Owner<M>) -> Result<BitNetTensor> {
    let refuse = |what: &str, expected: &str, found: String| {
        Err(BitNetError::mismatch(format!("{what} of a DLPack tensor"), expected, found))
    };
    let device = tensor.device;
    if device.device_type != HOST.device_type {
        let reason = format!("the memory of a DLPack tensor is on its device {}", device.device_type);
        return Err(ErrorKind::DeviceUnavailable { device: Device::Cpu, reason }.into());
    }
    let DlDataType { code, bits, lanes } = tensor.dtype;
    let dtype = BitNetDType::from_dlpack(DlpackType { code, bits, lanes });
    let Some(dtype) = dtype.filter(|dtype| packed || !dtype.is_packed()) else {
        return refuse(
            "element type",
            "one that we have",
            format!("code {code}, {bits} bits, {lanes} lanes"),
        );
    };
    let rank = usize::try_from(tensor.ndim).ok().filter(|&rank| rank <= MAX_RANK);
    let Some(rank) = rank.filter(|&rank| rank == 0 || !tensor.shape.is_null()) else {
        return refuse("dimensions", "0 to 64 with lengths", tensor.ndim.to_string());
    };
    let numbers = |array: *mut i64| match rank {
        0 => &[][..],
        // SAFETY: by the caller's contract both arrays have `ndim` numbers, where they are there.
        _ => unsafe { slice::from_raw_parts(array, rank) },
    };
    let lengths = numbers(tensor.shape);
    let shape: Option<Vec<usize>> = lengths.iter().map(|&length| usize::try_from(length).ok()).collect();
    let Some(shape) = shape else {
        return refuse("shape", "lengths from 0 on", format!("{lengths:?}"));
    };
    let row_major = Layout::row_major(shape);
    let strides: Vec<isize> = match tensor.strides.is_null() {
        true => row_major.strides().to_vec(),
        false => numbers(tensor.strides).iter().map(|&stride| stride as isize).collect(),
    };
    let Some((before, reach)) = reach(row_major.shape(), &strides, row_major.element_count()) else {
        return refuse("strides", "elements in the address space", format!("{strides:?}"));
    };
    let len = dtype.size_bytes(reach).filter(|&len| len <= isize::MAX as usize);
    let Some((back, len)) = dtype.byte_offset(before).zip(len) else {
        return refuse("strides", "elements in the address space", format!("{strides:?}"));
    };
    if len > 0 && tensor.data.is_null() {
        return refuse("data", "an address", format!("none of {len} bytes"));
    }
    let offset = usize::try_from(tensor.byte_offset).unwrap_or(usize::MAX);
    let first = tensor.data.cast::<u8>().wrapping_add(offset).wrapping_sub(back).cast_const();
    let layout = Layout::strided(row_major.shape().to_vec(), strides, before);
    let memory = Imported { first, len, _owner: owner };
    BitNetTensor::from_memory(TensorMetadata::with_layout(layout, dtype, Device::Cpu), Arc::new(memory))
}

/// Returns how many elements lie before the one at index 0, and how many there are from the first to the last.
fn reach(shape: &[usize], strides: &[isize], count: Option<usize>) -> Option<(usize, usize)> {
    if count? == 0 {
        return Some((0, 0));
    }
    let (mut before, mut after) = (0usize, 0usize);
    for (&length, &stride) in shape.iter().zip(strides) {
        let span = (length - 1).checked_mul(stride.unsigned_abs())?;
        let side = if stride < 0 { &mut before } else { &mut after };
        *side = side.checked_add(span)?;
    }
    Some((before, before.checked_add(after)?.checked_add(1)?))
}

#[cfg(test)]
#[path = "dlpack_tests.rs"]
mod tests;
