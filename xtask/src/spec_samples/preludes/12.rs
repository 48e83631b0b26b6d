use std::path::PathBuf;
// In main:
let (device, command_queue, _library) = initialize_metal_context()?;
let command_buffer = command_queue.new_command_buffer();
let (batch_size, input_size, output_size) = (2u32, 64u32, 32u32);
let (element_count, group_size) = (input_size * output_size, input_size);
let input_buffer = create_buffer(&device, &vec![0.5f32; (batch_size * input_size) as usize])?;
let weights_buffer = create_buffer(&device, &vec![1.0f32; element_count as usize])?;
let bias_buffer = create_buffer(&device, &vec![0.0f32; output_size as usize])?;
let scale_buffer = create_buffer(&device, &vec![1.0f32; output_size as usize])?;
let output_buffer = create_buffer(&device, &vec![0.0f32; element_count as usize])?;
let (threads, threadgroup) = BitNetShaders::new(device.clone())?
    .calculate_dispatch_params(BitNetShaderFunction::BitLinearForward, element_count as usize)?;
