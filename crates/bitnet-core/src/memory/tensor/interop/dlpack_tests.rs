use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::memory::tensor::file::to_bytes;

fn tensor() -> BitNetTensor {
    BitNetTensor::from_vec((0..24i32).collect::<Vec<_>>(), &[2, 3, 4]).unwrap()
}

fn take_over(exported: DlpackTensor<DlManagedTensorVersioned>) -> Result<BitNetTensor> {
    let managed = NonNull::new(exported.into_raw()).unwrap();
    // SAFETY: just exported, and not used any more; nobody writes to the memory.
    unsafe { BitNetTensor::from_dlpack(managed) }
}

#[test]
fn tensors_go_there_and_back_in_place() {
    let tensor = tensor();
    let address = tensor.as_slice::<i32>().unwrap().as_ptr();
    let exported = tensor.to_dlpack().unwrap();
    // SAFETY: just exported.
    let structure = unsafe { &*exported.as_ptr() };
    assert_eq!((structure.version.major, structure.flags, structure.dl_tensor.ndim), (1, READ_ONLY, 3));
    assert_eq!(structure.dl_tensor.data.cast_const().cast(), address);
    let back = take_over(exported).unwrap();
    assert_eq!(back.as_slice::<i32>().unwrap().as_ptr(), address);
    assert_eq!((back.shape(), back.layout().strides()), (&[2, 3, 4][..], &[12, 4, 1][..]));
    assert_eq!(back.memory().kind(), "DLPack tensor");
    // It outlives the one it was made of, and goes with its last view.
    let weak = Arc::downgrade(tensor.memory());
    drop(tensor);
    let view = back.clone();
    drop(back);
    assert_eq!(view.as_slice::<i32>().unwrap()[23], 23);
    drop(view);
    assert_eq!(weak.strong_count(), 0);
}

#[test]
fn strided_and_backward_views_keep_their_strides() {
    let tensor = tensor();
    let view = tensor.permute(&[2, 0, 1]).unwrap().flip(&[0, 2]).unwrap().slice(0, Some(1), None, 1).unwrap();
    let back = take_over(view.to_dlpack().unwrap()).unwrap();
    assert_eq!((back.shape(), back.layout().strides()), (view.shape(), view.layout().strides()));
    let image = |tensor: &BitNetTensor| to_bytes(&[("x", tensor)]).unwrap();
    assert_eq!(image(&back), image(&view));
    let empty = take_over(tensor.narrow(0, 0, 0).unwrap().to_dlpack().unwrap()).unwrap();
    assert_eq!((empty.shape(), empty.element_count()), (&[0, 3, 4][..], 0));
    let scalar = BitNetTensor::from_vec(vec![2.5f64], &[]).unwrap();
    assert_eq!(take_over(scalar.to_dlpack().unwrap()).unwrap().as_slice::<f64>().unwrap(), [2.5]);
}

#[test]
fn writers_get_memory_that_nobody_else_has() {
    let shared = tensor();
    let other = shared.clone();
    assert!(shared.into_dlpack_writable().unwrap_err().to_string().ends_with("expected 1, found 2"));
    let exported = other.into_dlpack_writable().unwrap();
    // SAFETY: just exported for writing; row-major, 24 elements.
    unsafe { *(*exported.as_ptr()).dl_tensor.data.cast::<i32>().add(5) = -5 };
    let managed = NonNull::new(exported.into_raw()).unwrap();
    // SAFETY: exported above, and not written any more.
    let back = unsafe { BitNetTensor::from_dlpack_unversioned(managed) }.unwrap();
    assert_eq!(back.as_slice::<i32>().unwrap()[4..7], [4, -5, 6]);
    drop(tensor().to_dlpack().unwrap());
}

#[test]
fn what_dlpack_does_not_have_is_not_handed_over() {
    let pool = crate::memory::HybridMemoryPool::new().unwrap();
    for dtype in BitNetDType::ALL {
        let tensor = BitNetTensor::ones(&[3], dtype, &Device::Cpu, &pool).unwrap();
        match tensor.to_dlpack() {
            Ok(exported) => {
                let back = take_over(exported).unwrap();
                assert_eq!((back.dtype(), back.as_bytes().unwrap()), (dtype, tensor.as_bytes().unwrap()));
            }
            Err(error) => {
                assert!(dtype.is_ternary() && error.to_string().contains("no ternary types"), "{error}")
            }
        }
    }
}

static DELETED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn count(_: *mut DlManagedTensorVersioned) {
    DELETED.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn structures_that_lie_are_refused_and_deleted() {
    let mut data = [0u8; 32];
    let mut refuse = |message: &str, change: &dyn Fn(&mut DlManagedTensorVersioned)| {
        let (mut shape, mut strides) = ([2i64, 2], [2i64, 1]);
        let mut managed = DlManagedTensorVersioned {
            version: VERSION,
            manager_ctx: null_mut(),
            deleter: Some(count),
            flags: 0,
            dl_tensor: DlTensor {
                data: data.as_mut_ptr().cast(),
                device: HOST,
                ndim: 2,
                dtype: DlDataType { code: 0, bits: 8, lanes: 1 },
                shape: shape.as_mut_ptr(),
                strides: strides.as_mut_ptr(),
                byte_offset: 0,
            },
        };
        change(&mut managed);
        let before = DELETED.load(Ordering::Relaxed);
        // SAFETY: what the change made of the structure is refused before any element is read.
        let result = unsafe { BitNetTensor::from_dlpack(NonNull::from(&mut managed)) };
        match result {
            Err(error) => assert!(error.to_string().contains(message) && !message.is_empty(), "{error}"),
            Ok(tensor) => assert!(message.is_empty(), "{tensor:?}"),
        }
        assert_eq!(DELETED.load(Ordering::Relaxed), before + 1);
    };
    let lengths = |managed: &mut DlManagedTensorVersioned, at: usize, value: i64| {
        // SAFETY: two lengths, as above.
        unsafe { *managed.dl_tensor.shape.add(at) = value };
    };
    let stride = |managed: &mut DlManagedTensorVersioned, value: i64| {
        // SAFETY: two strides, as above.
        unsafe { *managed.dl_tensor.strides = value };
    };
    refuse("", &|_| {});
    refuse("", &|m| m.dl_tensor.strides = null_mut());
    refuse("version of a DLPack tensor: expected 1.x, found 2.0", &|m| {
        m.version = DlpackVersion { major: 2, minor: 0 }
    });
    refuse("on its device 2", &|m| m.dl_tensor.device.device_type = 2);
    refuse("code 5, 64 bits", &|m| m.dl_tensor.dtype = DlDataType { code: 5, bits: 64, lanes: 1 });
    refuse("element type", &|m| m.dl_tensor.dtype.lanes = 4);
    refuse("element type", &|m| {
        m.dl_tensor.dtype.bits = 4;
        m.flags = SUBBYTE_PADDED;
    });
    refuse("dimensions", &|m| m.dl_tensor.ndim = -1);
    refuse("dimensions", &|m| m.dl_tensor.ndim = 65);
    refuse("dimensions", &|m| m.dl_tensor.shape = null_mut());
    refuse("shape", &|m| lengths(m, 0, -3));
    refuse("strides", &|m| (lengths(m, 0, i64::MAX), lengths(m, 1, i64::MAX)).1);
    refuse("strides", &|m| stride(m, i64::MIN));
    refuse("data", &|m| m.dl_tensor.data = null_mut());
    refuse("alignment", &|m| {
        m.dl_tensor.dtype.bits = 32;
        m.dl_tensor.data = m.dl_tensor.data.wrapping_byte_add(m.dl_tensor.data.addr() % 2 + 1);
        m.dl_tensor.data = m.dl_tensor.data.wrapping_byte_add(usize::from(m.dl_tensor.data.addr() % 4 == 0));
    });
}

#[test]
fn packed_types_go_only_where_the_form_says_that_they_are() {
    let pool = crate::memory::HybridMemoryPool::new().unwrap();
    let nibbles = BitNetTensor::ones(&[6], BitNetDType::I4, &Device::Cpu, &pool).unwrap();
    let bytes = nibbles.as_bytes().unwrap().to_vec();
    let back = take_over(nibbles.to_dlpack().unwrap()).unwrap();
    assert_eq!((back.dtype(), back.as_bytes().unwrap()), (BitNetDType::I4, &bytes[..]));
    drop(back);
    let error = nibbles.into_dlpack_writable().unwrap_err().to_string();
    assert!(error.contains("handing over a i4 tensor of shape [6]: that form cannot say"), "{error}");
}
